"""Builds the clients in other languages, each with its own tools, where these are installed.

`make clients` generates the stubs from protos/ and compiles what stands on them: clients/go/gen and clients/go/bin,
clients/typescript/gen and dist, clients/java/target. Nothing of that is committed. Packages that are not on this machine
yet are fetched by the language's own package manager, in the versions of go.sum, package-lock.json and pom.xml; a second
run needs no network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
_QUIET: Final = ("-q", "-B", "-ntp")


@dataclass(frozen=True)
class Client:
    """A client in another language. Commands run in its folder."""

    name: str
    title: str
    tools: tuple[tuple[str, tuple[str, ...], tuple[int, int], str], ...]
    """What it needs: a command, its arguments that print its version, the least version, and what it is called."""
    build: tuple[tuple[str, ...], ...]
    test: tuple[tuple[str, ...], ...]
    runner: tuple[str, ...]
    """Runs the cases of tests/conformance."""

    @property
    def folder(self) -> Path:
        return ROOT / "clients" / self.name


CLIENTS: Final = (
    Client(
        "go",
        "Go",
        (("go", ("env", "GOVERSION"), (1, 26), "Go 1.26 or newer"),),
        (("go", "generate"), ("go", "build", "-o", "bin/", "./conformance", "./quickstart")),
        (("go", "vet", ".", "./conformance", "./quickstart"), ("go", "test", ".")),
        ("bin/conformance",),
    ),
    Client(
        "typescript",
        "TypeScript",
        (
            ("node", ("--version",), (20, 0), "Node.js 20 or newer"),
            ("npm", ("--version",), (9, 0), "npm 9 or newer, which comes with Node.js"),
        ),
        (
            ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"),
            ("npm", "run", "-s", "build"),
        ),
        (("npm", "test", "--silent"),),
        ("node", "dist/conformance/main.js"),
    ),
    Client(
        "java",
        "Java",
        (
            ("javac", ("-version",), (17, 0), "a JDK of Java 17 or newer"),
            ("mvn", ("--version",), (3, 8), "Maven 3.8 or newer"),
        ),
        (("mvn", *_QUIET, "package", "-DskipTests"),),
        (("mvn", *_QUIET, "surefire:test"),),
        ("java", "-cp", "target/classes:target/lib/*", "conformance/Conformance.java"),
    ),
)


def environment() -> dict[str, str]:
    """Returns an environment in which `buf` is found: the repository's own has it."""
    return os.environ | {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}


def missing(client: Client) -> str | None:
    """Returns what a client needs and this machine lacks; None if nothing."""
    for command, arguments, least, title in client.tools:
        if shutil.which(command) is None:
            return f"{title} is not installed"
        said = subprocess.run([command, *arguments], check=False, capture_output=True, text=True)
        found = re.search(r"(\d+)\.(\d+)", said.stdout + said.stderr)
        if found is None or (int(found[1]), int(found[2])) < least:
            return f"{title} is needed, this is {(said.stdout + said.stderr).strip()[:60] or 'unknown'}"
    return None


def run(client: Client, commands: Sequence[Sequence[str]]) -> bool:
    """Runs commands until one fails, and tells whether none did. What a tool says is shown if it fails."""
    for command in commands:
        if command[:2] == ("npm", "ci") and _installed(client.folder):
            continue
        print(f"clients: {client.name}: {' '.join(command)}", flush=True)
        ended = subprocess.run(
            command,
            cwd=client.folder,
            env=environment(),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if ended.returncode:
            print(ended.stdout, file=sys.stderr)
            return False
    return True


def _installed(folder: Path) -> bool:
    # npm writes down what it installed; the file is as old as the installation.
    done = folder / "node_modules" / ".package-lock.json"
    return done.is_file() and done.stat().st_mtime > (folder / "package-lock.json").stat().st_mtime


def main(names: Sequence[str]) -> int:
    """Builds the named clients, or all whose tools are here. Returns 1 if one does not build, 2 for an unknown name."""
    known = {client.name: client for client in CLIENTS}
    if unknown := sorted(set(names) - set(known)):
        print(f"clients: there is no {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    status = 0
    for client in [known[name] for name in names] or CLIENTS:
        lacking = missing(client)
        if lacking is not None:
            print(f"clients: {client.name} is left out: {lacking}")
            status = max(status, 1 if names else 0)
        elif not run(client, client.build):
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
