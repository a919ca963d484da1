"""Languages without a grammar, by the lines that begin a definition.

A pattern tells such a line and the name on it. How far the definition goes is told by braces, by indentation, or, where
neither says it, by the next such line. This is coarser than a syntax tree, and enough for files that people have
formatted.
"""

import itertools
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from sluice_retrieval.chunking.outline import Definition, Outline
from sluice_retrieval.chunking.spans import ChunkSizes, Text, paragraph_rows

_MAX_LINE_CHARS: Final = 1000
_MAX_NAME_CHARS: Final = 120


class Extent(Enum):
    """How far a definition goes."""

    BRACES = auto()
    INDENTATION = auto()
    NEXT = auto()


@dataclass(frozen=True, slots=True)
class Pattern:
    """How definitions of a language begin and end."""

    head: re.Pattern[str]
    """Matches a line that begins one; its first group that is set is the name."""
    extent: Extent
    comment: tuple[str, ...] = ("//", "/*", "*", "@")
    """How lines begin that belong to the definition below."""


_HASH: Final = ("#",)


def _head(pattern: str, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    return re.compile(pattern, flags)


_SWIFT_LIKE: Final = (
    r"\s*(?:(?:public|private|internal|protected|fileprivate|open|final|static|override|abstract|sealed|case|implicit"
    r"|lazy|inline|export|pub|mutating|const|factory|base|async)\s+)*"
)
_SQL_THING: Final = (
    r"(?:table|view|materialized\s+view|function|procedure|trigger|index|unique\s+index|type|schema|database)"
)
PATTERNS: Final = {
    "protobuf": Pattern(
        _head(r"\s*(?:message|enum|service|rpc|oneof|extend)\s+([\w.]+)"), Extent.BRACES, ("//", "/*", "*")
    ),
    "graphql": Pattern(
        _head(
            r"\s*(?:extend\s+)?(?:type|interface|input|enum|union|scalar|query|mutation|subscription|fragment)\s+(\w+)"
        ),
        Extent.BRACES,
        ('"', "#"),
    ),
    "terraform": Pattern(
        _head(r"(?:resource|data)\s+\"([^\"]+\"\s+\"[^\"]+)\"|(?:variable|output|module|provider)\s+\"([^\"]+)\""),
        Extent.BRACES,
        ("#", "//"),
    ),
    "swift": Pattern(
        _head(_SWIFT_LIKE + r"(?:func|class|struct|enum|protocol|extension|actor|init)\b\s*([\w.]*)"), Extent.BRACES
    ),
    "scala": Pattern(_head(_SWIFT_LIKE + r"(?:def|class|object|trait|enum|given)\s+(\w+)"), Extent.INDENTATION),
    "dart": Pattern(_head(_SWIFT_LIKE + r"(?:class|mixin|enum|extension)\s+(\w+)"), Extent.BRACES),
    "zig": Pattern(_head(r"\s*(?:pub\s+)?(?:export\s+)?fn\s+(\w+)|\s*(?:pub\s+)?const\s+(\w+)\s*=\s*(?:extern\s+)?(?:struct|enum|union)\b"), Extent.BRACES),
    "perl": Pattern(_head(r"\s*sub\s+(\w+)"), Extent.BRACES, _HASH),
    "powershell": Pattern(_head(r"\s*(?:function|class|filter)\s+([\w:-]+)", re.IGNORECASE), Extent.BRACES, _HASH),
    "r": Pattern(_head(r"\s*([\w.]+)\s*(?:<-|=)\s*function\b"), Extent.BRACES, _HASH),
    "lua": Pattern(_head(r"\s*(?:local\s+)?function\s+([\w.:]+)"), Extent.INDENTATION, ("--",)),
    "julia": Pattern(_head(r"\s*(?:function|struct|mutable\s+struct|module|macro)\s+([\w.!]+)"), Extent.INDENTATION, _HASH),
    "elixir": Pattern(_head(r"\s*(?:defmodule|defp?|defmacrop?|defprotocol|defimpl)\s+([\w.?!]+)"), Extent.INDENTATION, ("#", "@")),
    "shell": Pattern(_head(r"\s*(?:function\s+([\w:.-]+)|([\w:.-]+)\s*\(\)\s*(?:\{|\(|$))"), Extent.INDENTATION, _HASH),
    "make": Pattern(_head(r"([\w./%$(){}-][\w./%$(){} -]*?)\s*::?(?!=)|define\s+(\w+)"), Extent.INDENTATION, ("#", ".PHONY")),
    "cmake": Pattern(_head(r"\s*(?:function|macro)\s*\(\s*(\w+)", re.IGNORECASE), Extent.INDENTATION, _HASH),
    "dockerfile": Pattern(_head(r"FROM\s+.*?\bAS\s+(\S+)|FROM\s+(\S+)", re.IGNORECASE), Extent.NEXT, _HASH),
    "sql": Pattern(
        _head(
            r"\s*create\s+(?:or\s+replace\s+)?(?:temp(?:orary)?\s+)?" + _SQL_THING
            + r"\s+(?:concurrently\s+)?(?:if\s+not\s+exists\s+)?([\w.\"`\[\]]+)|\s*(?:alter\s+table|insert\s+into)\s+(?:only\s+)?([\w.\"`\[\]]+)"
            r"|\s*--\s*name:\s*(\w+)",
            re.IGNORECASE,
        ),
        Extent.NEXT,
        ("--", "/*", "*"),
    ),
}  # fmt: skip
"""By the name of the language."""

# What may hold a brace that is none: strings, and comments to the end of the line.
_NO_CODE: Final = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|(?://|(?<!\S)#).*")


@dataclass(frozen=True, slots=True)
class _Head:
    row: int
    name: str
    start: int
    """With the comments above."""
    end: int


def pattern_outline(text: Text, language: str, sizes: ChunkSizes) -> Outline:
    """Returns the outline of a file in one of `PATTERNS`."""
    pattern = PATTERNS[language]
    names: dict[int, str] = {}
    for row, line in enumerate(text.lines):
        match = pattern.head.match(line) if len(line) <= _MAX_LINE_CHARS else None
        if match is not None:
            name = next(filter(None, match.groups()), "")
            names[row] = ".".join(re.split(r"[\"\s]+", name.strip()))[:_MAX_NAME_CHARS].strip('`"[]')
    ends = _ENDS[pattern.extent](text.lines, names)
    heads: list[_Head] = []
    floor = 0
    for row, name in names.items():
        start = row
        while start > floor and text.lines[start - 1].lstrip().startswith(pattern.comment):
            start -= 1
        heads.append(_Head(row, name, start, ends[row]))
        floor = row + 1
    if pattern.extent is Extent.NEXT:
        # The comments above a definition are not the end of the one before.
        starts = [*(head.start for head in heads[1:]), len(text)]
        heads = [_Head(head.row, head.name, head.start, end) for head, end in zip(heads, starts, strict=False)]
    return _Patterns(text, heads, sizes).outline(0, len(text))


class _Patterns:
    def __init__(self, text: Text, heads: Sequence[_Head], sizes: ChunkSizes) -> None:
        self._text = text
        self._heads = heads
        self._rows = [head.row for head in heads]
        self._sizes = sizes

    def outline(self, start: int, end: int) -> Outline:
        """Yields what lies in rows [start, end)."""
        at = start
        index = bisect_left(self._rows, start)
        while index < len(self._heads) and self._rows[index] < end:
            head = self._heads[index]
            yield from paragraph_rows(self._text, at, head.start)
            yield self._definition(head, index, end)
            at = max(at, min(head.end, end))
            index = bisect_left(self._rows, at, index + 1)
        yield from paragraph_rows(self._text, at, end)

    def _definition(self, head: _Head, index: int, end: int) -> Definition:
        sizes = self._sizes
        has_inner = index + 1 < len(self._rows) and self._rows[index + 1] < head.end
        return Definition(
            head.start,
            min(head.end, end),
            head.name,
            lambda: self.outline(head.row + 1, min(head.end, end)),
            head_start=head.row,
            head_end=head.row + 1,
            whole=sizes.small if has_inner else sizes.target,
            tiny=sizes.small // 4,
            joined=sizes.small,
        )


def _by_next(lines: Sequence[str], names: dict[int, str]) -> dict[int, int]:
    return dict(itertools.pairwise([*names, len(lines)]))


def _by_indentation(lines: Sequence[str], names: dict[int, str]) -> dict[int, int]:
    """A definition ends before the next line that is not indented more, but with the line that closes it."""
    ends: dict[int, int] = {}
    open_heads: list[tuple[int, int]] = []
    last = 0
    for row, line in enumerate(lines):
        bare = line.strip()
        if not bare:
            continue
        indentation = len(line) - len(line.lstrip())
        closes = row not in names and bare.startswith(("}", ")", "]", "end", "{"))
        while open_heads and open_heads[-1][1] >= indentation:
            head, level = open_heads.pop()
            ends[head] = row + 1 if closes and level == indentation else last + 1
            if closes and level == indentation:
                if bare == "{":
                    open_heads.append((head, level))
                break
        if row in names:
            open_heads.append((row, indentation))
        last = row
    for head, _ in open_heads:
        ends[head] = last + 1
    return ends


def _by_braces(lines: Sequence[str], names: dict[int, str]) -> dict[int, int]:
    """A definition ends where its braces close; without any, with its statement."""
    ends: dict[int, int] = {}
    open_heads: list[tuple[int, int]] = []
    depth = 0
    begun: set[int] = set()  # heads whose first brace was seen
    for row, line in enumerate(lines):
        if row in names:
            while open_heads and open_heads[-1][0] not in begun:
                ends[open_heads.pop()[0]] = row
            open_heads.append((row, depth))
        code = _NO_CODE.sub("", line) if len(line) <= _MAX_LINE_CHARS else line
        opening = code.count("{")
        depth += opening - code.count("}")
        if opening and open_heads:
            begun.add(open_heads[-1][0])
        bare = code.strip()
        while open_heads:
            head, level = open_heads[-1]
            if depth > level or not (head in begun or not bare or bare.endswith(";")):
                break
            ends[head] = row + 1
            open_heads.pop()
    for head, _ in open_heads:
        ends[head] = len(lines)
    return ends


_ENDS: Final = {Extent.BRACES: _by_braces, Extent.INDENTATION: _by_indentation, Extent.NEXT: _by_next}
