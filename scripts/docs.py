"""Write the reference tables in docs/ from what they describe, or prove that they are current (`--check`).

    docs/errors.md               <-  protos/sluice/error/v1/error_reason.proto and sluice_kit.errors.TABLE
    docs/guide/configuration.md  <-  the types of the sections of sluice.yaml, with their docstrings
    docs/providers.md            <-  the registry of adapters and the rows of vendors
    docs/metrics.md              <-  sluice_kit.telemetry.table

A page is written by people; only what stands between `<!-- NAME: written by scripts/docs.py -->` and `<!-- end -->` is
replaced.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_gateway.config import GatewayConfig
from sluice_kit import errors
from sluice_kit.config import AuthConfig, ConfigDocument, LogConfig, ServerConfig, TlsConfig
from sluice_kit.secrets import Secret
from sluice_kit.telemetry.settings import TelemetryConfig
from sluice_kit.telemetry.table import METRICS
from sluice_providers import options, registry
from sluice_providers.base import Adapter, Settings
from sluice_providers.vendors import VENDORS
from sluice_providers.wire import responses_request
from sluice_retrieval.config import RetrievalConfig

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "protos" / "sluice" / "error" / "v1" / "error_reason.proto"
_BLOCK = re.compile(r"(<!-- ([\w.-]+): written by scripts/docs\.py -->\n).*?(<!-- end -->)", re.DOTALL)


class Described(NamedTuple):
    """What the proto's comment says of an error reason."""

    name: str
    meaning: str
    code: str
    retry: str
    """`yes`, `no`, or what stands behind "retryable"."""
    example: str


def described_reasons() -> Iterator[Described]:
    """Yields what the comments of error_reason.proto say, in their order. Raises ValueError for one of another form."""
    text = PROTO.read_text(encoding="utf-8")
    for comment, name in re.findall(r"((?:^  //.*\n)+)^  ERROR_REASON_(\w+) = [1-9]\d*;", text, re.MULTILINE):
        lines = " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())
        match = re.fullmatch(r"(.*?) Code (\w+), (not retryable|retryable)( by \w+)?\. ErrorInfo: (\{.*\})", lines)
        if match is None:
            raise ValueError(f"{PROTO.name}: the comment of {name} has another form")
        meaning, code, retryable, how, example = match.groups()
        retry = "no" if retryable.startswith("not") else f"yes{how or ''}"
        yield Described(name, meaning, code, retry, example)


def error_table() -> str:
    """Returns the table of reasons. Raises ValueError where the proto's comments and the code disagree."""
    rows = ["| reason | gRPC code | retry | Python | meaning |", "| --- | --- | --- | --- | --- |"]
    seen = set()
    for one in described_reasons():
        reason = ErrorReason.Value(f"ERROR_REASON_{one.name}")
        row = errors.TABLE[reason]
        if (row.code.name, row.retryable) != (one.code, one.retry != "no"):
            raise ValueError(f"{one.name}: the proto says {one.code}, retry {one.retry}; the code says {row}")
        seen.add(reason)
        rows.append(f"| `{one.name}` | {one.code} | {one.retry} | `{row.exception.__name__}` | {_cell(one.meaning)} |")
    if seen != set(errors.TABLE):
        raise ValueError("sluice_kit.errors.TABLE and the proto have different reasons")
    return "\n".join(rows)


@cache
def _docs(type_: type) -> dict[str, str]:
    """Returns the docstring below each field of a class, of its bases too."""
    found: dict[str, str] = {}
    for base in reversed(type_.__mro__):
        if not issubclass(base, msgspec.Struct) or base is msgspec.Struct:
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in zip(definition.body, [*definition.body[1:], ast.Pass()], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = ""
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    text = " ".join(str(below.value.value).split())
                found[field.target.id] = text
    return found


def _kind(hint: Any) -> str:
    """Returns a type for people who write YAML."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _kind(arguments[0]) + "".join(_bounds(one) for one in arguments[1:] if isinstance(one, msgspec.Meta))
    if origin in (Union, UnionType):
        return " or ".join(_kind(one) for one in arguments if one is not NoneType)
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if origin in (tuple, list):
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return f"map of {_kind(arguments[1])}"
    names = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", Secret: "secret", Any: "any"}
    if hint in names:
        return names[hint]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return "settings"
    raise TypeError(f"no words for the type {hint}")


def _bounds(meta: msgspec.Meta) -> str:
    signs = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "min_length": "at least {}"}
    told = [text.format(getattr(meta, name)) for name, text in signs.items() if getattr(meta, name) is not None]
    return "".join(f", {text}" for text in told)


def _struct_in(hint: Any) -> tuple[type[msgspec.Struct], str] | None:
    """Returns the settings inside a type, and what stands between: "" or a placeholder for the keys of a map."""
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint, ""
    if origin is dict:
        inner = _struct_in(arguments[1])
        return (inner[0], f".NAME{inner[1]}") if inner else None
    if origin in (tuple, list):
        inner = _struct_in(arguments[0])
        return (inner[0], f"[]{inner[1]}") if inner else None
    if origin in (Annotated, Union, UnionType):
        for one in arguments:
            inner = _struct_in(one)
            if inner:
                return inner
    return None


def settings_rows(
    type_: type[msgspec.Struct], path: str, defaults: Any = None, leave_out: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yields a row of the table for each setting below a section; `defaults` hold texts for what it leaves out."""
    hints = get_type_hints(type_, include_extras=True)
    docs = _docs(type_)
    about = " ".join((inspect.getdoc(type_) or "").split())
    for field in msgspec.structs.fields(type_):
        if field.name in leave_out:
            continue
        hint, where = hints[field.name], f"{path}.{field.encode_name}"
        default = _default(field, (defaults or {}).get(field.name))
        inner = _struct_in(hint)
        doc = docs[field.name]
        if not doc and inner:
            doc = " ".join((inspect.getdoc(inner[0]) or "").split())
        elif not doc:
            # What speaks for itself has no docstring of its own; that of the type around it says the rest, once.
            doc, about = about, ""
        is_group = inner is not None and inner[1] == "" and default != "unset" and default != "required"
        if not is_group:
            rendered = f"`{where}`"
            yield f"| {rendered} | {_cell(_kind(hint))} | {_cell(default)} | {_cell(doc)} |"
        if inner is not None and inner[0] is not type_ and not _is_elsewhere(inner[0]):
            yield from settings_rows(inner[0], where + inner[1])


def _is_elsewhere(type_: type) -> bool:
    return type_.__name__ == "Script"  # docs/scripted.md has its language


def _default(field: msgspec.structs.FieldInfo, text: str | None) -> str:
    if text is not None:
        return f"`{text}`"
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Secret):
        return "unset"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, msgspec.Struct):
        return "below"
    if value in ("", (), {}, []):
        return "empty"
    return f"`{value}`" if isinstance(value, str) else f"`{msgspec.json.encode(_told(value)).decode()}`"


def _told(value: Any) -> Any:
    """Returns a default without what is a default itself."""
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        return {one.name: getattr(value, one.name) for one in fields if getattr(value, one.name) != one.default}
    return {key: _told(one) for key, one in value.items()} if isinstance(value, dict) else value


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def settings_table(*parts: Iterator[str]) -> str:
    """Returns a table of settings."""
    head = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *(row for part in parts for row in part)])


def adapter_tables() -> str:
    """Returns one table for what all adapters share, and one for each adapter's own settings."""
    shared = frozenset(field.name for field in msgspec.structs.fields(Settings))
    texts = [settings_table(settings_rows(Settings, "providers.ID"))]
    for name in sorted(registry.REGISTRY):
        adapter = registry.adapter_class(name)
        rows = list(settings_rows(adapter.Settings, "providers.ID", adapter.DEFAULTS, shared))
        texts.append(f"Adapter `{name}`" + (":" if rows else " has no settings of its own."))
        if rows:
            texts.append(settings_table(iter(rows)))
    return "\n\n".join(texts)


def _integrations() -> Iterator[tuple[str, Adapter]]:
    """Yields every name that `adapter` may have, with the adapter it makes where nothing else is configured."""
    document = ConfigDocument(None, {})
    for name in sorted({*registry.REGISTRY, *VENDORS}):
        kind = registry.kind(name)
        yield name, kind.adapter(name, document.section(f"providers.{name}", kind.adapter.Settings, kind.defaults))


def _title(name: str, adapter: Adapter) -> str:
    return VENDORS[name].title if name in VENDORS else adapter.TITLE


def _has(adapter: Adapter, method: str, setting: str) -> bool:
    """Tells whether an adapter offers a call: its class does, and its settings do not say otherwise."""
    return getattr(type(adapter), method) is not getattr(Adapter, method) and bool(
        getattr(adapter.settings, setting, True)
    )


def vendor_table() -> str:
    """Returns the table of all vendors: what each needs and offers."""
    rows = [
        "| `adapter` | vendor | format | needs | embeddings | reranking | token counts | models | refuses |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, adapter in _integrations():
        own = name in registry.REGISTRY
        needs = ", ".join(f"`{one}`" if one.isidentifier() else one for one in adapter.missing()) or "nothing"
        local = name in ("extractive", "scripted")
        listed = "its own" if local else "asks the vendor" if adapter.settings.discover else "as configured"
        refused = "" if own else ", ".join(f"`{one}`" for one in adapter.settings.unsupported)
        cells = (
            f"`{name}`",
            _title(name, adapter),
            "its own" if own else f"`{VENDORS[name].adapter}`",
            needs,
            "yes" if _has(adapter, "embed", "embeddings") else "",
            "yes" if _has(adapter, "rerank", "rerank_path") else "",
            "exact" if adapter.EXACT_COUNT else "estimated",
            listed,
            refused,
        )
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


_OPTIONS = (*sorted(options.PARAMETERS), *options.NO_TUNING)


def option_table() -> str:
    """Returns the table of request options that each format carries."""
    formats = [
        (name, frozenset(adapter.OPTIONS) - frozenset(getattr(adapter.settings, "unsupported", ())))
        for name, adapter in _integrations()
        if name in registry.REGISTRY
    ]
    formats.append(("openai, `/responses`", responses_request.OPTIONS))
    formats.sort()
    rows = ["| option | " + " | ".join(name if "`" in name else f"`{name}`" for name, _ in formats) + " |"]
    rows.append("| --- |" + " --- |" * len(formats))
    for option in _OPTIONS:
        rows.append(f"| `{option}` | " + " | ".join("yes" if option in names else "" for _, names in formats) + " |")
    return "\n".join(rows)


def metrics_table() -> str:
    """Returns the table of metrics."""
    rows = ["| metric | kind | labels | of | what it says |", "| --- | --- | --- | --- | --- |"]
    for one in METRICS:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append(f"| `{one.name}` | {one.kind} | {labels} | {one.served_by} | {_cell(one.help)} |")
    return "\n".join(rows)


def setup_list() -> str:
    """Returns how to get going with each vendor."""
    return "\n".join(
        f"- **{_title(name, adapter)}** (`{name}`). {VENDORS[name].setup if name in VENDORS else adapter.SETUP}"
        for name, adapter in _integrations()
    )


WRITERS: dict[str, Callable[[], str]] = {
    "errors": error_table,
    "auth": lambda: settings_table(settings_rows(AuthConfig, "auth")),
    "log": lambda: settings_table(settings_rows(LogConfig, "log")),
    "server": lambda: settings_table(settings_rows(ServerConfig, "server")),
    "tls": lambda: settings_table(settings_rows(TlsConfig, "tls")),
    "telemetry": lambda: settings_table(settings_rows(TelemetryConfig, "telemetry")),
    "metrics": metrics_table,
    "gateway": lambda: settings_table(settings_rows(GatewayConfig, "gateway")),
    "providers": adapter_tables,
    "vendors": vendor_table,
    "options": option_table,
    "setup": setup_list,
    "retrieval": lambda: settings_table(settings_rows(RetrievalConfig, "retrieval")),
}
PAGES = tuple(ROOT / "docs" / page for page in ("errors.md", "guide/configuration.md", "providers.md", "metrics.md"))


def render(page: str) -> str:
    """Returns a page with its tables written anew. Raises KeyError for a name that nothing writes."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{WRITERS[match[2]]()}\n\n{match[3]}", page)


def main() -> int:
    """Writes the pages, or compares them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is not current")
    options = parser.parse_args()
    stale = []
    for path in PAGES:
        old = path.read_text(encoding="utf-8")
        new = render(old)
        if new != old:
            stale.append(path.relative_to(ROOT).as_posix())
            if not options.check:
                path.write_text(new, encoding="utf-8")
    if stale and options.check:
        print(f"docs: {', '.join(stale)} not current; run `.venv/bin/python scripts/docs.py`", file=sys.stderr)
        return 1
    print(f"docs: {', '.join(stale) or 'nothing'} {'written' if stale else 'to write'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
