"""Prompt templates: versioned files by use and language, the service's own and the operator's.

A template's id is `use/version.language`, and its file lies at `use/version.language.md`, in this package or in the
folder that `gateway.prompts` names. The operator's file wins over the service's own of the same id.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from sluice.gateway.v1.chat_service_pb2 import ChatSpec
from sluice_gateway.config import GatewayConfig, RouteConfig, RoutePolicy
from sluice_kit.config import ConfigDocument

MAX_TEMPLATE_BYTES: Final = 64 * 1024
"""Beyond the size of any instruction, and small against what models read."""
_DEFAULT_LANGUAGE: Final = "en"
_USE: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_FILE: Final = re.compile(
    r"(?P<version>[a-z0-9][a-z0-9_-]{0,31})\.(?P<language>[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8}){0,4})\.md"
)

Table = dict[str, dict[str, "Template"]]
"""Templates by prompt (`grounded/v1`) and language tag in lower case."""


@dataclass(frozen=True, slots=True)
class Template:
    """A template: its id (`use/version.language`), the SHA-256 of its text as lower-case hex, and the text."""

    id: str
    sha256: str
    text: str


class Prompts:
    """The templates of one configuration, checked as a whole: what is wrong with them raises ConfigError."""

    def __init__(self, document: ConfigDocument, config: GatewayConfig) -> None:
        self.folder = None if config.prompts.folder is None else document.resolve(config.prompts.folder)
        """Where the operator's files are."""
        self._table = {prompt: dict(languages) for prompt, languages in _built_in().items()}
        self._default = config.prompts.use
        if self.folder is not None:
            try:
                for prompt, language, template in _read(self.folder):
                    self._table.setdefault(prompt, {})[language] = template
            except _Unusable as error:
                raise document.error("gateway.prompts.folder", str(error)) from None
        self._check(document, "gateway.prompts.use", config.prompts.use)
        for alias, route in sorted(config.routes.items()):
            if route.prompt is not None:
                self._check(document, f"gateway.routes.{alias}.prompt", route.prompt)

    def take(self, other: "Prompts") -> None:
        """Answers with other templates from now on."""
        self.folder = other.folder
        self._table, self._default = other._table, other._default  # noqa: SLF001 - of the same class

    def template_for(self, spec: ChatSpec, policy: RoutePolicy) -> Template | None:
        """Returns the template a request's grounding uses on a route; None without grounding.

        It is in the language of the answer, or in the nearest that there is: `pt` for `pt-BR`, then English, then the
        first by its tag.
        """
        if not spec.HasField("grounding"):
            return None
        own = policy.prompt if isinstance(policy, RouteConfig) else None
        # A route that was planned before a reload may name a prompt that there is no more.
        languages = self._table.get(own or "") or self._table[self._default]
        tag = spec.answer_language.lower()
        while tag:
            if tag in languages:
                return languages[tag]
            tag = tag.rpartition("-")[0]
        return languages.get(_DEFAULT_LANGUAGE) or languages[min(languages)]

    def _check(self, document: ConfigDocument, path: str, prompt: str) -> None:
        if prompt not in self._table:
            raise document.error(path, f"no prompt '{prompt}'; there are: {', '.join(sorted(self._table))}")


class _Unusable(Exception):
    """A file that cannot be a template; the message names it and says why."""


@cache
def _built_in() -> Table:
    table: Table = {}
    for prompt, language, template in _read(files("sluice_gateway").joinpath("templates")):
        table.setdefault(prompt, {})[language] = template
    return table


def _read(folder: Traversable) -> Iterator[tuple[str, str, Template]]:
    """Yields prompt, language and template of every file. Raises _Unusable."""
    for use in _entries(folder):
        if not use.is_dir():
            continue  # a README, say
        for file in _entries(use):
            if not file.name.endswith(".md"):
                continue
            place = f"{use.name}/{file.name}"
            match = _FILE.fullmatch(file.name)
            if match is None or not _USE.fullmatch(use.name):
                raise _Unusable(f"{place} is not named like grounded/v1.en.md (use, version, language)")
            prompt = f"{use.name}/{match['version']}"
            yield prompt, match["language"].lower(), _template(f"{prompt}.{match['language']}", place, file)


def _entries(folder: Traversable) -> list[Traversable]:
    try:
        found = [entry for entry in folder.iterdir() if not entry.name.startswith((".", "_"))]
    except OSError as error:
        raise _Unusable(f"{folder} cannot be read: {error.strerror}") from None
    return sorted(found, key=lambda entry: entry.name)


def _template(name: str, place: str, file: Traversable) -> Template:
    if not file.is_file():
        raise _Unusable(f"{place} is not a file")
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_TEMPLATE_BYTES + 1)
    except OSError as error:
        raise _Unusable(f"{place} cannot be read: {error.strerror}") from None
    if len(data) > MAX_TEMPLATE_BYTES:
        raise _Unusable(f"{place} is larger than {MAX_TEMPLATE_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _Unusable(f"{place} is not UTF-8 text") from None
    if not text.strip():
        raise _Unusable(f"{place} is empty")
    return Template(name, hashlib.sha256(data).hexdigest(), text)


def stamp(folder: Path | None) -> tuple[tuple[str, int, int], ...]:
    """Returns what changes when a file of a folder of templates does. Empty without one."""
    found = []
    if folder is not None:
        for path in sorted(folder.glob("*/*.md")):
            try:
                status = path.stat()
            except OSError:
                continue  # it went away in this moment
            found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)
