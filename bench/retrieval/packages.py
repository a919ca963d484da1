"""Sources of installed packages: as they are, and with their docstrings made into questions.

Nothing is downloaded and nothing of a package is run: its files are read where it is installed.
"""

import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from bench.retrieval.metrics import Question, Span

_MIN_WORDS: Final = 4
_MIN_LINES: Final = 3
_SENTENCE: Final = re.compile(r"(.+?[.!?])(?=\s+[A-Z`*:\d-]|\s*$)", re.DOTALL)
_MARKUP: Final = re.compile(r":[a-z]+:`~?([^`<]+?)(?:\s*<[^`]*>)?`|``?([^`]+)``?")
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package. `distribution` is the name it is installed by, `folder` the one it is imported by."""

    distribution: str
    folder: str
    leave_out: tuple[str, ...] = ()
    """Files that are data rather than code, by the beginning of their path."""

    @property
    def version(self) -> str:
        """The installed version. Raises PackageNotFoundError."""
        return metadata.version(self.distribution)

    def sources(self) -> dict[str, str]:
        """Returns the Python files by path below the package, in order."""
        root = Path(sysconfig.get_path("purelib")) / self.folder
        found: dict[str, str] = {}
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root).as_posix()
            text = path.read_text(encoding="utf-8")
            if text.strip() and not name.startswith(self.leave_out or "\0"):
                found[name] = text
        return found


def sample(sources: dict[str, str], most_bytes: int) -> dict[str, str]:
    """Returns some of the files, always the same ones, of about so many bytes in all."""
    chosen: set[str] = set()
    held = 0
    for name in sorted(sources, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if held + len(sources[name]) <= most_bytes:
            chosen.add(name)
            held += len(sources[name])
    return {name: text for name, text in sources.items() if name in chosen}


def write(sources: dict[str, str], folder: Path) -> None:
    """Writes files below a folder."""
    for name, text in sources.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")


def without_docstrings(sources: dict[str, str], most: int) -> tuple[dict[str, str], list[Question]]:
    """Returns the files without any docstring, and at most so many questions: first sentences of the docstrings of
    functions and methods, each with the lines that the function now has.

    Functions that say too little (a sentence of fewer than 4 words, fewer than 3 lines) or that share their sentence
    with another one ask nothing.
    """
    stripped: dict[str, str] = {}
    asked: dict[str, list[Span]] = {}
    for name, text in sources.items():
        stripped[name] = bare = _strip(text)
        # Stripping takes no definition away, so both trees have the same ones in the same order.
        for before, after in zip(_definitions(text), _definitions(bare), strict=True):
            sentence = _first_sentence(ast.get_docstring(before))
            start = min([after.lineno, *(decorator.lineno for decorator in after.decorator_list)])
            span = Span(name, start, after.end_lineno or after.lineno)
            if sentence:
                asked.setdefault(sentence, []).append(span)
    questions = [
        Question(sentence, (spans[0],))
        for sentence, spans in asked.items()
        if len(spans) == 1 and spans[0].size >= _MIN_LINES
    ]
    questions.sort(key=lambda question: hashlib.sha256(question.text.encode()).digest())
    return stripped, questions[:most]


def _definitions(text: str) -> Iterator[Definition]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Definition) and not (node.name.startswith("__") and node.name.endswith("__")):
            yield node


def _strip(text: str) -> str:
    """Returns a module without docstrings; a body that has nothing else becomes `pass`."""
    lines = text.split("\n")
    edits: list[tuple[int, int, list[str]]] = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Module | ast.ClassDef | Definition) or ast.get_docstring(node, clean=False) is None:
            continue
        docstring = node.body[0]
        first, last = docstring.lineno - 1, docstring.end_lineno or docstring.lineno
        # What stands before and behind it on its lines stays, e.g. `def f(): """..."""`, in bytes as ast counts.
        before = lines[first].encode()[: docstring.col_offset].decode()
        behind = lines[last - 1].encode()[docstring.end_col_offset :].decode().lstrip(" ;")
        only = isinstance(node, ast.Module) or len(node.body) > 1
        code = "" if behind.startswith("#") else behind
        left = f"{before}{code}" if only else f"{before}pass"
        edits.append((first, last, [left] if left.strip() else []))
    for first, last, replacement in sorted(edits, reverse=True):
        lines[first:last] = replacement
    return "\n".join(lines)


def _first_sentence(docstring: str | None) -> str:
    """Returns the first sentence of the first paragraph, without markup; empty if it says too little."""
    paragraph = re.split(r"\n\s*\n", (docstring or "").strip())[0]
    plain = _MARKUP.sub(lambda match: match[1] or match[2], " ".join(paragraph.split()))
    match = _SENTENCE.match(plain)
    sentence = match[1] if match else plain
    return sentence if len(re.findall(r"[A-Za-z]{2,}", sentence)) >= _MIN_WORDS and sentence.isascii() else ""


def total_bytes(sources: dict[str, str]) -> int:
    """Returns how large files are in all."""
    return sum(len(text.encode()) for text in sources.values())


def versions(packages: Sequence[Package]) -> dict[str, str]:
    """Returns the versions of packages by the names of their distributions."""
    return {package.distribution: package.version for package in packages}
