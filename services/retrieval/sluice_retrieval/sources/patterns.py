"""Gitignore-style patterns, as filters and as .gitignore files."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from pathspec import GitIgnoreSpec

_MAX_STARS_IN_SEGMENT: Final = 4
_MAX_DOUBLE_STARS: Final = 4
_STARS: Final = re.compile(r"\*+")
_IGNORE_LINE: Final = re.compile(r"\r?\n")
"""What ends a line for git: not what else Unicode may call an end."""
_FOLDER_END: Final = "ps_d"
"""The group of pathspec's regular expressions that matches the slash after a folder."""


class PatternError(ValueError):
    """A pattern that is not used. `index` is its place in the list."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


class PathFilter:
    """Include and exclude patterns: a file counts if it matches an include (or there is none) and no exclude."""

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        """Raises PatternError: `index` counts the includes first, then the excludes."""
        self._include = _compile(include, 0) if include else None
        self._exclude = _compile(exclude, len(include)) if exclude else None
        self._prunes = not any(pattern.startswith("!") for pattern in exclude)
        self._named = {part for pattern in include for part in pattern.strip("/").split("/")}

    @property
    def is_open(self) -> bool:
        """Whether every file counts."""
        return self._include is None and self._exclude is None

    def takes(self, path: str) -> bool:
        """Tells whether a file counts."""
        if self._include is not None and not self._include.match_file(path):
            return False
        return self._exclude is None or not self._exclude.match_file(path)

    def skips_folder(self, path: str) -> bool:
        """Tells whether nothing below a folder can count."""
        return self._prunes and self._exclude is not None and self._exclude.match_file(path + "/")

    def names(self, name: str) -> bool:
        """Tells whether an include names a folder in so many words, as `vendor/` does and `**/*.py` does not."""
        return name in self._named


def _compile(patterns: Sequence[str], offset: int) -> GitIgnoreSpec:
    for index, pattern in enumerate(patterns):
        mistake = _mistake_in(pattern)
        if mistake is not None:
            raise PatternError(offset + index, mistake)
    return GitIgnoreSpec.from_lines(patterns)


def _mistake_in(pattern: str) -> str | None:
    """Returns why a pattern is not used, or None."""
    # Patterns become regular expressions whose time grows with the power of the stars.
    segments = pattern.split("/")
    if any(len(_STARS.findall(segment)) > _MAX_STARS_IN_SEGMENT for segment in segments):
        return f"at most {_MAX_STARS_IN_SEGMENT} stars between slashes"
    if segments.count("**") > _MAX_DOUBLE_STARS:
        return f"at most {_MAX_DOUBLE_STARS} times **"
    try:
        GitIgnoreSpec.from_lines([pattern])
    except ValueError:
        return "not a gitignore-style pattern"
    return None


class IgnoreRules:
    """The .gitignore files on the way from the root to a folder; the deepest that says anything decides."""

    def __init__(self) -> None:
        self._files: tuple[tuple[str, tuple[_Rule, ...]], ...] = ()

    def within(self, folder: str, text: str | None) -> "IgnoreRules":
        """Returns the rules inside a folder (its path, empty for the root), whose .gitignore holds `text`, if any."""
        if text is None:
            return self
        child = IgnoreRules()
        child._files = ((f"{folder}/" if folder else "", _rules_in(text)), *self._files)
        return child

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """Tells whether a file or folder is ignored, none of the folders that it lies in being so: those are not
        entered, and nothing in them is asked for."""
        for prefix, rules in self._files:
            inner = path[len(prefix) :] + ("/" if is_folder else "")
            for rule in rules:
                if rule.means(inner):
                    return rule.ignores
        return False


class _Rule(NamedTuple):
    """A line of a .gitignore."""

    pattern: re.Pattern[str]
    ignores: bool
    """False: it takes back what lines before it ignore."""

    def means(self, path: str) -> bool:
        """Tells whether a line means this file or folder (which ends with a slash) itself. The regular expression also
        matches what lies in a folder that is meant, and says by its group where the folder ends."""
        match = self.pattern.search(path)
        if match is None:
            return False
        if not self.pattern.pattern.startswith("^"):
            # `*` is everything, `*/` every folder.
            return _FOLDER_END not in self.pattern.groupindex or path.endswith("/")
        if _FOLDER_END not in self.pattern.groupindex:
            # `a/**` is all that lies in a folder, and not the folder.
            return match.end() < len(path) or not match[0].endswith("/")
        end = match.end(_FOLDER_END)
        return end in (-1, len(path))


def _rules_in(text: str) -> tuple[_Rule, ...]:
    """Reads a .gitignore as git does, which passes over lines that it does not understand. The last line comes first."""
    lines = [line for line in _IGNORE_LINE.split(text) if _mistake_in(line) is None]
    found: list[_Rule] = []
    for pattern in GitIgnoreSpec.from_lines(lines).patterns:
        # A comment and an empty line have neither.
        expression: re.Pattern[str] | None = getattr(pattern, "regex", None)
        if expression is not None and pattern.include is not None:
            found.append(_Rule(expression, pattern.include))
    return tuple(reversed(found))
