"""What no file of the repository may hold."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from .house import ROOT, python_files, relative, text_files

MAX_LINES = 400


def comments(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def lines_matching(pattern: str, paths: list[Path]) -> list[str]:
    wanted = re.compile(pattern)
    return [
        f"{relative(path)}:{number}: {line.strip()[:160]}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if wanted.search(line)
    ]


def test_no_module_is_too_long() -> None:
    long = {
        relative(path): count for path in python_files() if (count := path.read_text("utf-8").count("\n")) >= MAX_LINES
    }
    assert not long, f"these have {MAX_LINES} lines or more: {long}"


def test_every_exception_to_a_rule_says_why() -> None:
    """`# type: ignore[code]  # reason`, `# noqa: CODE - reason`."""
    unexplained = []
    for path in python_files():
        for line, comment in comments(path):
            for marker, explained in (
                (r"#\s*type:\s*ignore", r"#\s*type:\s*ignore\[[\w, -]+\]\s*(#|-|:)\s*\w.{4}"),
                (r"#\s*noqa", r"#\s*noqa: [A-Z]+[0-9]+(, ?[A-Z]+[0-9]+)*\s*(#|-|:)\s*\w.{4}"),
                (r"#\s*(ruff|mypy):\s*\w", r"#\s*(ruff|mypy):\s*[^#]+#\s*\w.{4}"),
                (r"#\s*pragma:", r"#\s*pragma:\s*no cover\s*(#|-|:)\s*\w.{4}"),
            ):
                # The reason may stand in a comment of its own behind, which is part of the same token.
                if re.search(marker, comment) and not re.search(explained, comment):
                    unexplained.append(f"{relative(path)}:{line}: {comment}")
    assert not unexplained, "\n".join(unexplained)


def test_no_test_is_left_out_without_a_reason() -> None:
    wrong = []
    for path in python_files():
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"pytest\.(?:mark\.)?(skip|skipif|xfail|importorskip)\b(?:\(([^)]*)\))?", text):
            kind, arguments = match.group(1), match.group(2) or ""
            if kind == "importorskip" or not re.search(r"['\"]", arguments):
                number = text.count("\n", 0, match.start()) + 1
                if path != Path(__file__):
                    wrong.append(f"{relative(path)}:{number}: {match.group(0)}")
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_to_do() -> None:
    words = "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK"))
    found = lines_matching(rf"\b({words})\b", [path for path in text_files() if "third_party" not in path.parts])
    found = [line for line in found if not line.startswith(("gen/python/buf/", "requirements/"))]
    assert not found, "\n".join(found)


def test_no_file_names_a_path_of_one_machine() -> None:
    places = [r"/(?:home|Users)/[A-Za-z0-9_-]+/", r"(?<![\w.])/root/"]
    if len(ROOT.parts) > 2:
        # A checkout directly below "/" may share its name with a folder of a container, which is no one's machine.
        places.append(re.escape(str(ROOT)) + r"\b")
    found = lines_matching("|".join(places), [path for path in text_files() if path != Path(__file__)])
    assert not found, "\n".join(found)


def test_no_file_names_a_package_registry() -> None:
    # Written in halves, so that this file does not hold what it looks for.
    hosts = ["pypi" + r"\.org/(?:simple|packages|pypi)", "files.python" + r"hosted\.org", "registry.npm" + r"js\.org"]
    hosts += ["proxy.go" + r"lang\.org", "registry.yarn" + r"pkg\.com", "repo1?.maven" + r"\.(?:apache\.)?org"]
    found = lines_matching("|".join(hosts), text_files())
    assert not found, "\n".join(found)


def test_no_file_is_a_leftover() -> None:
    bad = [relative(path) for path in text_files() if re.search(r"\.(orig|rej|bak|swp|tmp)$", path.name)]
    assert not bad


def test_text_ends_with_one_newline_and_holds_no_merge_marks() -> None:
    wrong = []
    for path in text_files():
        if "third_party" in path.parts or relative(path).startswith("gen/python/"):
            continue
        data = path.read_bytes()
        if data and (not data.endswith(b"\n") or b"\r\n" in data):
            wrong.append(f"{relative(path)}: line ends")
        if re.search(rb"^(<{7} |={7}$|>{7} )", data, re.MULTILINE):
            wrong.append(f"{relative(path)}: merge marks")
    assert not wrong
