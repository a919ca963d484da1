"""The configuration: one `sluice.yaml`, read once, into frozen values.

Each service has its own section and sees only that one and the shared ones (`state_dir`, `auth`, `log`, `server`,
`tls`).
Values come from, later ones winning:

1. the defaults in the section's type,
2. the file, in which `${NAME}` stands for an environment variable and `${NAME:-text}` has a default,
3. the environment: `SLUICE_GATEWAY__LISTEN` sets `gateway.listen`,
4. the command line: `--set gateway.listen=127.0.0.1:7400`.

A mistake of structure (an unknown name, a wrong type, a missing value) fails the start with a `ConfigError` that names
file, line and setting. A missing *credential* does not: it becomes a `Secret` that knows its variable, and the service
reports it by name. No service reads the environment anywhere else.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import yaml

from sluice_kit.secrets import Secret

SECTIONS = ("state_dir", "auth", "log", "server", "telemetry", "tls", "gateway", "providers", "retrieval", "workflows")
_PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_ENV_PREFIX = "SLUICE_"
_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_ANY_KEY = "..."
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]+)`")
T = TypeVar("T")


class ConfigError(Exception):
    """The configuration cannot be used. The message names the file, the line, the setting and what is wrong."""


class AuthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may call: section `auth`."""

    mode: Literal["local", "keys", "insecure"] = "local"
    """`local`: no keys, loopback and Unix sockets only. `keys`: static keys from `keys_file`. `insecure`: no keys on
    any address, for networks that are closed by other means."""
    keys_file: str | None = None
    """File of the static keys, relative to the configuration file. Required with mode `keys`."""


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged: section `log`. One JSON object a line, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is written."""
    format: Literal["json", "text"] = "json"
    """`json` for machines, `text` for people."""


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How every service listens and stops: section `server`."""

    reflection: bool = True
    """Whether grpc reflection is served, for grpcurl and the like."""
    drain_seconds: float = 30.0
    """How long calls in flight may go on after SIGTERM."""
    max_message_bytes: int = 32 * 1024 * 1024
    """Largest request or response, in bytes."""
    max_connection_seconds: float = 600.0
    """A connection takes no new calls after so long, about; those on it go on to their end. So clients that balance find
    replicas that came later. 0: it lasts."""


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mutual TLS between the services: section `tls`. It is on where `certificate`, `key` and `ca` are set."""

    certificate: str | None = None
    """File of the service's own certificate (PEM, with what lies between it and the CA), relative to the configuration
    file. It carries the SPIFFE id as its only URI, and the DNS name `SERVICE.TRUST_DOMAIN`."""
    key: str | None = None
    """File of its private key (PEM, not encrypted)."""
    ca: str | None = None
    """File of the CAs whose certificates are believed (PEM). Several, while one replaces another."""
    trust_domain: str = "sluice.local"
    """Whose SPIFFE ids are believed: `spiffe://TRUST_DOMAIN/SERVICE`."""
    namespace: str | None = None
    """Where set, SPIFFE ids have the form `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE`, and no other is believed."""
    reload_seconds: float = 10.0
    """How often the files are looked at. Changed ones hold for new connections; those that stand go on."""


@dataclass(frozen=True, slots=True)
class Unset:
    """A placeholder without a value: which variable it wanted."""

    variable: str


@dataclass(frozen=True)
class ConfigDocument:
    """The configuration as read: its values by section and where each stands."""

    path: Path | None
    data: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    overrides: Sequence[str] = ()

    def again(self) -> "ConfigDocument":
        """Returns the same configuration, read anew. Raises ConfigError."""
        return load(self.path, self.overrides, self.environ)

    def section(self, name: str, type_: type[T], defaults: Mapping[str, Any] | None = None) -> T:
        """Returns the section as a frozen value of the given msgspec type; its defaults where it is absent.

        `name` may be dotted (`providers.openai`). `defaults` are values for settings that the section leaves out, texts
        with placeholders as in the file, e.g. `{"api_key": "${OPENAI_API_KEY}"}`. Raises ConfigError.
        """
        value: Any = self.data
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
            if value is None:
                value = {}
        if defaults and isinstance(value, dict):
            value = {
                key: _expand(default, self.environ) if isinstance(default, str) else default
                for key, default in defaults.items()
            } | value
        try:
            return _convert(value, type_)
        except msgspec.ValidationError as error:
            raise self._explain(name, value, type_, str(error)) from None

    def entries(self, name: str) -> tuple[str, ...]:
        """Returns the names under a section that is a map, e.g. the ids of `providers`."""
        value = self.data.get(name)
        return tuple(value) if isinstance(value, dict) else ()

    def line_of(self, path: str) -> int | None:
        """Returns the line of a dotted path, or of the nearest one above it that stands in the file."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path.rpartition(".")[0]
        return None

    def error(self, path: str, what: str) -> ConfigError:
        """Returns a ConfigError about a setting, with file and line."""
        return ConfigError(f"{self._where(path)}{path}: {what}")

    def state_dir(self) -> Path:
        """Returns the folder for everything the mesh keeps: `state_dir`, else a folder of the user's own data."""
        value = self.data.get("state_dir")
        if value is None:
            return _default_state_dir()
        if not isinstance(value, str):
            raise self.error("state_dir", "expected a path")
        return self.resolve(value)

    def resolve(self, path: str) -> Path:
        """Returns a path of the configuration as an absolute one; relative ones start at the file's folder."""
        base = self.path.parent if self.path is not None else Path.cwd()
        return (base / Path(path).expanduser()).absolute()

    def _where(self, path: str) -> str:
        line = self.line_of(path)
        source = str(self.path) if self.path is not None else "configuration"
        return f"{source}:{line}: " if line is not None else f"{source}: "

    def _explain(self, name: str, value: Any, type_: type[Any], text: str) -> ConfigError:
        match = _AT.match(text)
        what = match["what"] if match else text
        steps = _steps((match["path"] or "") if match else "", value, type_, text)
        path = ".".join((name, *steps))
        unset = _dig(value, steps)
        if isinstance(unset, Unset):
            return self.error(path, f"environment variable {unset.variable} is not set")
        unknown = _UNKNOWN_FIELD.search(what)
        if unknown:
            return self.error(f"{path}.{unknown[1]}", "no such setting")
        return self.error(path, what[:1].lower() + what[1:])


def load(path: Path | None, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> ConfigDocument:
    """Reads the configuration.

    `path` is the file; None means defaults only. `overrides` are `a.b=value` words of the command line. `environ`
    replaces the process's environment, for tests. Raises ConfigError.
    """
    env = os.environ if environ is None else environ
    data: dict[str, Any] = {}
    lines: dict[str, int] = {}
    if path is not None:
        path = path.absolute()
        data, lines = _read(path, env)
    document = ConfigDocument(path, data, lines, env, tuple(overrides))
    for name in data:
        if name not in SECTIONS:
            raise document.error(name, f"no such section; there are: {', '.join(SECTIONS)}")
    for key, text in sorted(env.items()):
        if key.startswith(_ENV_PREFIX) and "__" in key:
            _put(document, key[len(_ENV_PREFIX) :].lower().replace("__", "."), text, key)
    for word in overrides:
        dotted, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"--set {word}: expected name=value")
        _put(document, dotted, text, f"--set {dotted}")
    return document


def _put(document: ConfigDocument, dotted: str, text: str, origin: str) -> None:
    parts = dotted.split(".")
    if parts[0] not in SECTIONS:
        raise ConfigError(f"{origin}: no such section '{parts[0]}'; there are: {', '.join(SECTIONS)}")
    at: Any = document.data
    for part in parts[:-1]:
        child = at.get(part)
        if not isinstance(child, dict):
            child = {}
            at[part] = child
        at = child
    # Scalars stay text, which the section's type turns into what it wants: a key of digits must not become a number.
    if text[:1] in ("[", "{"):
        try:
            at[parts[-1]] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{origin}: cannot be read as YAML") from None
    else:
        at[parts[-1]] = text


def _read(path: Path, env: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    lines: dict[str, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return {}, lines
            value = _build(loader, node, "", lines, env, path)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}:1: expected a map of sections")
    return value, lines


def _build(
    loader: yaml.SafeLoader, node: yaml.Node, at: str, lines: dict[str, int], env: Mapping[str, str], path: Path
) -> Any:
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            child = f"{at}.{key}" if at else key
            if key in result:
                raise ConfigError(f"{path}:{key_node.start_mark.line + 1}: {child}: set twice")
            lines[child] = key_node.start_mark.line + 1
            result[key] = _build(loader, value_node, child, lines, env, path)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, f"{at}.{index}", lines, env, path) for index, item in enumerate(node.value)]
    value = loader.construct_object(node)
    return _expand(value, env) if isinstance(value, str) else value


def _expand(text: str, env: Mapping[str, str]) -> Any:
    """Replaces placeholders. One without value and default makes the whole value Unset."""
    missing = [match[1] for match in _PLACEHOLDER.finditer(text) if not env.get(match[1]) and match[2] is None]
    if missing:
        return Unset(missing[0])
    return _PLACEHOLDER.sub(lambda match: env.get(match[1]) or match[2], text)


def _hook(type_: type, value: Any) -> Any:
    if type_ is Secret:
        if isinstance(value, Unset):
            return Secret(None, value.variable)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return Secret(str(value))
        raise ValueError("expected text")
    raise NotImplementedError(f"no way to read a {type_.__name__}")


def _convert(value: Any, type_: type[T]) -> T:
    return msgspec.convert(value, type_, strict=False, dec_hook=_hook)


def _steps(path: str, value: Any, type_: type[Any], text: str) -> list[str]:
    """Returns the names on the way to a mistake that msgspec found.

    It does not say at which key of a map, so the first of them is looked for that has this mistake without the others.
    """
    steps: list[str] = []
    for name, index in _STEP.findall(path):
        step = name or index
        within = _dig(value, steps)
        if step == _ANY_KEY and isinstance(within, dict):
            for key in within:
                alone = _only(value, steps, key)
                try:
                    _convert(alone, type_)
                except msgspec.ValidationError as error:
                    if str(error) == text:
                        step, value = key, alone
                        break
        steps.append(step)
    return steps


def _only(value: Any, steps: Sequence[str], key: str) -> Any:
    """Returns a value whose map at the end of `steps` has one key alone."""
    if not steps:
        return {key: value[key]}
    first, rest = steps[0], steps[1:]
    if isinstance(value, list):
        return [_only(item, rest, key) if str(number) == first else item for number, item in enumerate(value)]
    return value | {first: _only(value[first], rest, key)}


def _dig(value: Any, steps: Iterable[str]) -> Any:
    for part in steps:
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "sluice"


def is_private_address(address: str) -> bool:
    """Tells whether an address can be reached from this machine alone: a Unix socket or loopback."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    return host == "localhost" or host == "::1" or host.startswith("127.")


def check_listeners(
    document: ConfigDocument,
    auth: AuthConfig,
    addresses: Iterable[tuple[str, str]],
    inside: Iterable[tuple[str, str]] = (),
) -> None:
    """Refuses listeners that would let strangers in.

    `addresses` are pairs of setting and address; `inside` are those of listeners for services alone, which may be
    anywhere with mutual TLS. Raises ConfigError in mode `local` for any other that is not private, and where mode `keys`
    has no file.
    """
    if auth.mode == "keys" and auth.keys_file is None:
        raise document.error("auth.keys_file", "required with auth.mode: keys")
    if auth.mode != "local":
        return
    mutual = document.section("tls", TlsConfig).certificate is not None
    for setting, address in (*addresses, *(() if mutual else inside)):
        if not is_private_address(address):
            raise document.error(
                setting,
                f"{address} can be reached from other machines, but auth.mode is local; "
                "set auth.mode: keys with a keys_file, or write auth.mode: insecure",
            )
