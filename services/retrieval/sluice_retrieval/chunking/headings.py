"""Prose by its headings, where these are lines of their own: reStructuredText, AsciiDoc, LaTeX."""

import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

from sluice_retrieval.chunking.outline import Definition, Outline
from sluice_retrieval.chunking.spans import ChunkSizes, Text, paragraph_rows

HEADINGS: Final = frozenset({"rst", "asciidoc", "latex"})
"""The languages that are cut so."""
_MAX_NAME_CHARS: Final = 120
_UNDERLINE: Final = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*$")
_ASCIIDOC: Final = re.compile(r"(={1,6})\s+(\S.*)")
_LATEX: Final = re.compile(r"\s*\\(part|chapter|section|subsection|subsubsection|paragraph)\*?\{([^}\n]*)")
_LATEX_LEVELS: Final = ("part", "chapter", "section", "subsection", "subsubsection", "paragraph")


@dataclass(frozen=True, slots=True)
class _Heading:
    start: int
    body: int
    level: int
    name: str


def headings_outline(text: Text, language: str, sizes: ChunkSizes) -> Outline:
    """Returns the outline of a file in one of `HEADINGS`."""
    found = _underlined(text) if language == "rst" else _marked(text, language)
    ends: list[int] = [len(text)] * len(found)
    stack: list[int] = []
    for index, heading in enumerate(found):
        while stack and found[stack[-1]].level >= heading.level:
            ends[stack.pop()] = heading.start
        stack.append(index)
    return _Headings(text, found, ends, sizes).outline(0, len(text))


def _underlined(text: Text) -> list[_Heading]:
    """Headings of reStructuredText. The order in which kinds of lines first appear tells their levels."""
    lines = text.lines
    levels: dict[tuple[str, bool], int] = {}
    found: list[_Heading] = []
    row = 1
    while row < len(lines):
        match = _UNDERLINE.match(lines[row]) if len(lines[row]) < 200 else None
        title = lines[row - 1].strip()
        if (
            match is None
            or not title
            or lines[row - 1][0].isspace()
            or _UNDERLINE.match(lines[row - 1])
            or len(lines[row].rstrip()) < min(len(title), 3)
        ):
            row += 1
            continue
        over = row >= 2 and lines[row - 2].strip() == lines[row].strip()
        if over or row < 2 or not lines[row - 2].strip():
            level = levels.setdefault((match[1], over), len(levels))
            start = row - 2 if over else row - 1
            if not found or start >= found[-1].body:
                found.append(_Heading(start, row + 1, level, title[:_MAX_NAME_CHARS]))
        row += 1
    return found


def _marked(text: Text, language: str) -> list[_Heading]:
    found: list[_Heading] = []
    pattern = _ASCIIDOC if language == "asciidoc" else _LATEX
    for row, line in enumerate(text.lines):
        match = pattern.match(line[:1000])
        if match is not None:
            level = len(match[1]) if language == "asciidoc" else _LATEX_LEVELS.index(match[1])
            found.append(_Heading(row, row + 1, level, " ".join(match[2].split())[:_MAX_NAME_CHARS]))
    return found


class _Headings:
    def __init__(self, text: Text, found: list[_Heading], ends: list[int], sizes: ChunkSizes) -> None:
        self._text = text
        self._found = found
        self._starts = [heading.start for heading in found]
        self._ends = ends
        self._sizes = sizes

    def outline(self, start: int, end: int) -> Outline:
        """Yields the sections in rows [start, end)."""
        at = start
        index = bisect_left(self._starts, start)
        while index < len(self._found) and self._starts[index] < end:
            yield from paragraph_rows(self._text, at, self._starts[index])
            yield self._section(index)
            at = self._ends[index]
            index = bisect_left(self._starts, at, index + 1)
        yield from paragraph_rows(self._text, at, end)

    def _section(self, index: int) -> Definition:
        heading, end, sizes = self._found[index], self._ends[index], self._sizes
        has_inner = index + 1 < len(self._starts) and self._starts[index + 1] < end
        return Definition(
            heading.start,
            end,
            heading.name,
            lambda: self.outline(heading.body, end),
            head_start=heading.start,
            head_end=heading.body,
            whole=sizes.small if has_inner else sizes.target,
            has_context=False,
        )
