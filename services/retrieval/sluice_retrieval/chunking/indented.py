"""Structured data and markup by indentation: the entries of a level, and inside one that is too large, its own.

Small entries join. An entry's name is the key, tag, selector or section that its first line shows.
"""

import itertools
import re
from typing import Final

from sluice_retrieval.chunking.outline import Definition, Outline
from sluice_retrieval.chunking.spans import ChunkSizes, Text

_MAX_DEPTH: Final = 24
_MAX_LINE_CHARS: Final = 1000
_KEY: Final = re.compile(
    r"\s*(?:-\s+)?(?:\"([^\"\n]{1,120})\"|'([^'\n]{1,120})'|([\w./$@-][\w ./$@-]{0,119}?))\s*:(?:\s|$)"
)
_SECTION: Final = re.compile(r"\[+\s*([^\]\n]{1,120}?)\s*\]+\s*(?:[#;].*)?$")
_TAG: Final = re.compile(r"\s*<([A-Za-z][\w:.-]*)(?:[^>]*?\b(?:id|name|key)=[\"']([^\"']{1,80})[\"'])?")
_RULE: Final = re.compile(r"\s*([^\s{}/*;][^{};\n]{0,119}?)\s*(?:\{|,\s*$)")
INDENTED: Final = {
    "json": _KEY, "yaml": _KEY, "toml": _SECTION, "ini": _SECTION, "xml": _TAG, "html": _TAG, "vue": _TAG,
    "svelte": _TAG, "css": _RULE, "scss": _RULE,
}  # fmt: skip
"""What names an entry, by the name of the language."""
_CLOSERS: Final = ("}", ")", "]", "</", "-->", "*/")
_COMMENTS: Final = ("#", "//", "/*", "*", "<!--", ";")
_FLAT: Final = frozenset({"toml", "ini"})


def indented_outline(text: Text, language: str, sizes: ChunkSizes) -> Outline:
    """Returns the outline of a file in one of `INDENTED`."""
    return _Indented(text, INDENTED[language], language in _FLAT, sizes).outline(0, len(text), 0)


class _Indented:
    def __init__(self, text: Text, name: re.Pattern[str], flat: bool, sizes: ChunkSizes) -> None:
        self._text = text
        self._pattern = name
        self._flat = flat
        self._sizes = sizes
        # Lines that begin nothing (blank ones, closing ones) have no level. In flat formats a section goes to the next.
        self._levels = [self._level(line) for line in text.lines]

    def _level(self, line: str) -> int:
        bare = line.lstrip()
        if not bare or bare.startswith(_CLOSERS):
            return -1
        if self._flat:
            return 0 if self._name(line) else 1
        return len(line) - len(bare)

    def _name(self, line: str) -> str:
        match = self._pattern.match(line) if len(line) <= _MAX_LINE_CHARS else None
        return ".".join(filter(None, match.groups())).replace("\n", " ").strip() if match is not None else ""

    def outline(self, start: int, end: int, depth: int) -> Outline:
        """Yields the entries of rows [start, end)."""
        least = min((level for level in self._levels[start:end] if level >= 0), default=-1)
        if least < 0:
            return
        entries = [row for row in range(start, end) if self._levels[row] == least]
        lines = self._text.lines
        above = -1  # first of the comments right above
        for row, following in itertools.pairwise([*entries, end]):
            name = "" if lines[row].lstrip().startswith(_COMMENTS) else self._name(lines[row])
            if not name and following == row + 1 and lines[row].lstrip().startswith(_COMMENTS):
                above = row if above < 0 else above
                yield row
                continue
            begin, above = row if above < 0 else above, -1
            if name and depth < _MAX_DEPTH:
                yield self._definition(name, begin, row, self._end(row, following, end), depth)
                continue
            yield row
            if depth < _MAX_DEPTH and following - row > 1 and (name == "" and self._large(row, following)):
                yield from self.outline(row + 1, following, depth + 1)

    def _large(self, start: int, end: int) -> bool:
        return self._text.size(start, end) > self._sizes.small

    def _end(self, row: int, following: int, end: int) -> int:
        """Returns where an entry ends: blank lines before the next one are not its own."""
        while following < end and following > row + 1 and not self._text.lines[following - 1].strip():
            following -= 1
        return following

    def _definition(self, name: str, begin: int, row: int, end: int, depth: int) -> Definition:
        sizes = self._sizes
        return Definition(
            begin,
            end,
            name,
            lambda: self.outline(row + 1, end, depth + 1),
            head_start=row,
            head_end=row + 1,
            whole=sizes.target,
            tiny=sizes.small,
            joined=sizes.target,
        )
