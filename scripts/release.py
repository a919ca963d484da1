"""Prepare a release: `make release VERSION=0.1.0`.

Checks that the tree is clean and the changelog has something to say, then writes the version into every member, dates the
changelog's section, replaces protos/baseline.binpb (what later contracts are compared with) and builds the distributions
into dist/. It commits, tags and publishes nothing: it prints the commands for that, for a person to read first.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent
CHANGELOG = ROOT / "CHANGELOG.md"
UNRELEASED = "## [Unreleased]"


def members() -> list[Path]:
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [ROOT / folder / "pyproject.toml" for folder in root["tool"]["uv"]["workspace"]["members"]]


def refuse(reason: str) -> None:
    raise SystemExit(f"release: {reason}")


def check_version(text: str) -> Version:
    try:
        wanted = Version(text)
    except InvalidVersion:
        refuse(f"{text!r} is not a version (PEP 440); try VERSION=0.1.0")
    for path in members():
        current = Version(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"])
        if wanted <= current:
            refuse(f"{path.relative_to(ROOT)} is at {current} already; {wanted} is not newer")
    return wanted


def check_tree() -> None:
    status = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, check=True, capture_output=True, text=True)
    if status.stdout.strip():
        refuse("the working tree has changes; commit them first:\n" + status.stdout)


def changelog_entry(text: str) -> str:
    """What stands under Unreleased."""
    match = re.search(rf"^{re.escape(UNRELEASED)}\n(.*?)(?=^## \[|\Z)", text, re.MULTILINE | re.DOTALL)
    entry = match.group(1).strip() if match else ""
    if not entry:
        refuse(f"CHANGELOG.md has nothing under {UNRELEASED}")
    return entry


def set_version(path: Path, wanted: Version) -> None:
    text, count = re.subn(
        r'^version = "[^"]+"$', f'version = "{wanted}"', path.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE
    )
    if count != 1:
        refuse(f"{path.relative_to(ROOT)} has no version line")
    path.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("version", help="such as 0.1.0")
    wanted = check_version(parser.parse_args().version)
    check_tree()
    changelog = CHANGELOG.read_text(encoding="utf-8")
    changelog_entry(changelog)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    for path in members():
        set_version(path, wanted)
    CHANGELOG.write_text(changelog.replace(UNRELEASED, f"{UNRELEASED}\n\n## [{wanted}] - {today}", 1), encoding="utf-8")
    subprocess.run([sys.executable, str(ROOT / "scripts" / "contracts.py"), "baseline"], cwd=ROOT, check=True)
    for path in members():
        uv = str(Path(sys.executable).parent / "uv")
        build = [
            uv,
            "build",
            "--quiet",
            "--no-build-isolation",
            "--python",
            sys.executable,
            "--out-dir",
            str(ROOT / "dist"),
        ]
        subprocess.run([*build, str(path.parent)], cwd=ROOT, check=True)
    print(
        f"release: {wanted} is ready: versions, CHANGELOG.md, protos/baseline.binpb, dist/. Look at `git diff`, then:"
    )
    print(f'release:   git commit -am "Release {wanted}" && git tag -a v{wanted} -m "Sluice {wanted}"')
    return 0


if __name__ == "__main__":
    sys.exit(main())
