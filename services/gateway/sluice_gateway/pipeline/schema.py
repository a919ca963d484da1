"""Schema: reads the JSON Schema of a request, and compiles it into what an answer is checked with.

A schema comes from a caller, so it is bounded before anything is made of it, and nothing it refers to is fetched. What
an answer costs to check is bounded, too: a schema whose references fan out can ask for more steps than there are atoms,
so each reference is passed through a guard that closes when the time is over.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import jsonschema_rs
import msgspec

from sluice_kit.errors import SluiceError
from sluice_kit.rpc import invalid_field

FIELD: Final = "spec.response_format.json_schema.schema_json"
MAX_BYTES: Final = 128 * 1024
MAX_DEPTH: Final = 64
MAX_NODES: Final = 5000
"""Objects within a schema, all told."""
MAX_PATTERNS: Final = 100
MAX_NESTED_UNEVALUATED: Final = 4
"""Each of them within another one triples the work."""
CHECK_SECONDS: Final = 1.0
"""Longest that the guard stays open."""
_PATTERN_BYTES: Final = 256 * 1024
"""Most memory that a compiled pattern takes."""
_BACKTRACKS: Final = 100_000
_GUARD: Final = "sluice:guard"
_DRAFTS: Final = {
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
}
_DRAFT_7: Final = "draft-07"
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_NAMED: Final = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
"""Keywords whose keys are names, not keywords."""
_DATA: Final = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose values are no schemas."""
_UNEVALUATED: Final = frozenset({"unevaluatedProperties", "unevaluatedItems"})


class Violation(NamedTuple):
    """Where a value breaks a schema."""

    path: str
    """JSON Pointer into the value. A name that does not stand in the schema is `*`: it may be content."""
    keyword: str
    """The keyword of the schema that it breaks; `time` if that could not be found out in time, `schema` if it was not
    looked for because that takes long."""


class _Guard:
    """Closes references when the time is over."""

    def __init__(self) -> None:
        self.until = 0.0
        self.closed = False

    def keyword(self) -> type[Any]:
        """Returns the class that the validator makes of the keyword."""
        guard = self

        class Keyword:
            def __init__(self, parent: Mapping[str, Any], value: Any, path: list[str | int]) -> None:
                pass

            def validate(self, _: Any) -> None:
                if time.monotonic() > guard.until:
                    guard.closed = True
                    raise ValueError

        return Keyword


class Schema:
    """A compiled schema. Raises InvalidRequestError for one that is none, or is not taken."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_BYTES:
            raise _refused("", f"longer than {MAX_BYTES} bytes")
        try:
            document = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            raise _refused("", "not JSON") from None
        if not isinstance(document, dict | bool):
            raise _refused("", "not an object")
        self.nodes = 0
        self.refers = False
        """Whether it has references: then checking may take longer than its size says."""
        self._names: set[str] = set()
        self._patterns = 0
        guarded = self._taken(document)
        self._guard = _Guard()
        try:
            self._validator = jsonschema_rs.validator_for(
                guarded,
                offline=True,
                keywords={_GUARD: self._guard.keyword()},
                pattern_options=jsonschema_rs.FancyRegexOptions(_BACKTRACKS, _PATTERN_BYTES, _PATTERN_BYTES),
            )
        except jsonschema_rs.ValidationError as error:
            # Its own text quotes the schema.
            raise _refused(_pointer(error.instance_path), "not a JSON Schema") from None
        except ValueError:
            raise _refused("", "not a JSON Schema") from None

    def check(self, value: Any, *, locate: bool) -> Violation | None:
        """Returns where a value breaks the schema, None if it does not. Takes little more than CHECK_SECONDS.

        Without `locate` it says only that it does: to find out where, each part that does not match is copied.
        """
        self._guard.closed = False
        self._guard.until = time.monotonic() + CHECK_SECONDS
        try:
            if self._validator.is_valid(value):
                return Violation("", "time") if self._guard.closed else None
            if self._guard.closed or not locate:
                return Violation("", "time" if self._guard.closed else "schema")
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            if self._guard.closed:
                return Violation("", "time")
            names = [part if isinstance(part, int) or part in self._names else "*" for part in error.instance_path]
            return Violation(_pointer(names), error.kind.name)
        except ValueError:  # text that is no Unicode
            return Violation("", "type")
        return Violation("", "schema")

    def _taken(self, document: Any) -> Any:
        """Checks a schema against the bounds and returns it with its references guarded."""
        root = document.get("$schema") if isinstance(document, dict) else None
        old = isinstance(root, str) and _DRAFT_7 in root
        return self._walk(document, (), 0, named=False, old=old)

    def _walk(self, value: Any, path: tuple[str | int, ...], nested: int, *, named: bool, old: bool) -> Any:
        if len(path) > MAX_DEPTH:
            raise _refused(_pointer(path), f"nested deeper than {MAX_DEPTH}")
        if isinstance(value, list):
            return [self._walk(item, (*path, index), nested, named=False, old=old) for index, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise _refused(_pointer(path), f"more than {MAX_NODES} objects")
        if named:
            self._names.update(value)
        else:
            nested = self._check(value, path, nested)
        walked: dict[str, Any] = {}
        for key, item in value.items():
            if not named and key in _DATA:
                walked[key] = item
            else:
                inner = not named and key in _NAMED
                if key == "patternProperties" and inner and isinstance(item, dict):
                    self._count_patterns(len(item), path)
                walked[key] = self._walk(item, (*path, key), nested, named=inner, old=old)
        return walked if named else self._guarded(walked, old=old)

    def _check(self, schema: dict[str, Any], path: tuple[str | int, ...], nested: int) -> int:
        """Checks one schema's own keywords. Returns how many unevaluated ones it lies within."""
        for name in _REFERENCES:
            target = schema.get(name)
            if isinstance(target, str) and not target.startswith("#"):
                raise _refused(_pointer((*path, name)), "nothing outside of the schema can be referred to")
        dialect = schema.get("$schema")
        if isinstance(dialect, str) and dialect.rstrip("#") not in _DRAFTS:
            raise _refused(_pointer((*path, "$schema")), "not draft 2020-12, 2019-09 or 7")
        if isinstance(schema.get("pattern"), str):
            self._count_patterns(1, path)
        required = schema.get("required")
        if isinstance(required, list):
            self._names.update(name for name in required if isinstance(name, str))
        nested += any(name in schema for name in _UNEVALUATED)
        if nested > MAX_NESTED_UNEVALUATED:
            raise _refused(_pointer(path), f"more than {MAX_NESTED_UNEVALUATED} unevaluated keywords within each other")
        return nested

    def _count_patterns(self, count: int, path: tuple[str | int, ...]) -> None:
        self._patterns += count
        if self._patterns > MAX_PATTERNS:
            raise _refused(_pointer(path), f"more than {MAX_PATTERNS} patterns")

    def _guarded(self, schema: dict[str, Any], *, old: bool) -> dict[str, Any]:
        """Returns a schema whose references are followed only while the guard is open."""
        references = {name: schema[name] for name in _REFERENCES if isinstance(schema.get(name), str)}
        if not references:
            return schema
        self.refers = True
        # Draft 7 ignores what stands beside a reference, but for what others refer to.
        ignored = old and "$ref" in references
        rest = {
            key: value
            for key, value in schema.items()
            if key not in references and (not ignored or key in ("definitions", "$defs", "$schema"))
        }
        every = rest.get("allOf")
        before = every if isinstance(every, list) else []
        return {**rest, "allOf": [*before, {"if": {_GUARD: True}, "then": references, "else": False}]}


def _pointer(path: "list[str | int] | tuple[str | int, ...]") -> str:
    return "".join(_tokens(path))[:200]


def _tokens(path: "list[str | int] | tuple[str | int, ...]") -> Iterator[str]:
    for part in path:
        yield "/" + str(part).replace("~", "~0").replace("/", "~1")


def _refused(path: str, why: str) -> SluiceError:
    return invalid_field(FIELD, f"at {path}: {why}" if path else why)
