"""What the Makefile, the README and the docs tell people to type exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .house import ROOT, files, relative

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PAGES = [path for path in files() if path.suffix == ".md" and "third_party" not in path.parts]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.MULTILINE))


def documented_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):.*## \S", MAKEFILE, re.MULTILINE))


def code_of(page: Path) -> list[str]:
    """The lines that a page shows as code: fenced blocks and inline code."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [line for block in fenced for line in block.splitlines()] + inline


def commands(pattern: str) -> dict[str, str]:
    """What follows a command in the pages, with one page that shows it."""
    return {
        match.group(1): relative(page)
        for page in PAGES
        for line in code_of(page)
        for match in re.finditer(rf"(?:^|[$;&|(]\s*|\b(?:nice|time|env)\s+){pattern}", line.strip())
    }


def test_every_target_is_documented_and_phony() -> None:
    assert targets() == documented_targets()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == targets()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_help_lists_every_target_and_is_the_default() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert set(re.findall(r"^  ([a-z-]+) ", shown, re.MULTILINE)) == targets()


def test_make_targets_named_in_pages_exist() -> None:
    named = commands(r"make ((?!-)[a-z][a-z-]*)")
    missing = {target: page for target, page in named.items() if target not in targets()}
    assert not missing


def test_scripts_named_in_pages_and_makefile_exist() -> None:
    texts = {relative(page): page.read_text(encoding="utf-8") for page in PAGES} | {"Makefile": MAKEFILE}
    missing = {
        name: page
        for page, text in texts.items()
        for name in re.findall(r"\bscripts/[a-z_]+\.(?:py|sh)\b", text)
        if not (ROOT / name).is_file()
    }
    assert not missing


def test_paths_linked_in_pages_exist() -> None:
    missing = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                missing.append(f"{relative(page)}: {target}")
    assert not missing


def test_sluice_commands_named_in_pages_exist() -> None:
    """Each `sluice x` is asked for its help, as a person would."""
    named = commands(r"(?:\.venv/bin/)?sluice ((?!-)[a-z][a-z-]*)\b(?![/.])")
    assert named, "no page shows a command"
    unknown = {}
    for command, page in sorted(named.items()):
        executable = ROOT / ".venv" / "bin" / "sluice"
        result = subprocess.run([str(executable), command, "--help"], check=False, capture_output=True, text=True)
        if result.returncode != 0:
            unknown[command] = page
    assert not unknown


def test_ci_runs_what_people_run() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^.*\bmake check\b", script, re.MULTILINE)
    recipe = MAKEFILE.split("\ncheck: setup", 1)[1].split("\n\n", 1)[0]
    for part in ("gen.py --check", "lock.py --check", "contracts.py breaking", ") lint", ") types", ") test"):
        assert part in recipe.replace("--no-print-directory ", "").replace("$(MAKE)", ")"), part
