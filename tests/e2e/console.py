"""Runs what the pages show: the commands in their consoles, their Python, and their YAML.

A page shows commands in a block of the language `console`: a line that begins with `$ ` is a command, lines with `> `
continue it, and what follows is its output. A bare list of `sluice` commands counts, too. A block runs in one shell, in
a copy of the repository, against one mesh.
A comment directly above a block changes what is expected of it:

    <!-- sample -->       the output is of one run; half of its lines must come again
    <!-- fails -->        every command of the block fails
    <!-- as FILE -->      the block is written to FILE, in the page's folder and where the page's commands run
    <!-- not run: … -->   it is not run, or not checked, for that reason; may follow `as FILE, `

Output is compared line by line, in order, with numbers and white space alike; `…` stands for any text, and a line of
nothing but `…` for any lines.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from json import loads
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
ADDRESS: Final = "127.0.0.1:7400"
"""The address that the pages use; a test's own stands in for it."""
_START_SECONDS: Final = 60.0
_BLOCK_SECONDS: Final = 280.0
_FENCE: Final = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n)?^(?P<fence>```+)(?P<language>[\w-]*)[^\n]*\n(?P<body>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_MARK: Final = "@@sluice-docs@@"
_SECRETS: Final = re.compile(r"_API_KEY$|^SLUICE_|^OPENAI_|^ANTHROPIC_|^GOOGLE_|^AWS_|_TOKEN$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    body: str
    note: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_console(self) -> bool:
        """Whether it shows commands: by its language, or because it is a bare list of them."""
        lines = self.body.splitlines()
        return self.language == "console" or (
            not self.language and bool(lines) and all(line.startswith("sluice ") for line in lines)
        )

    @property
    def not_run(self) -> str | None:
        """Why it is not run; None if it is."""
        _, marked, reason = self.note.partition("not run:")
        return reason.strip() if marked else None

    @property
    def file(self) -> str | None:
        """The name of the file it is written to; None if it is none."""
        match = re.match(r"as ([\w./-]+)", self.note)
        return match[1] if match else None


@dataclass
class Command:
    """A command and what it is said to print."""

    text: str
    output: list[str] = field(default_factory=list)


def blocks(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("fence")) + 1
        found.append(Block(name, line, match["language"], match["body"], match["note"] or ""))
    return found


def commands(block: Block) -> list[Command]:
    """Returns the commands of a console."""
    if block.language != "console":
        return [Command(line) for line in block.body.splitlines()]
    found: list[Command] = []
    continues = False
    for line in block.body.splitlines():
        if line.startswith("$ "):
            found.append(Command(line.removeprefix("$ ")))
            continues = True
        elif continues and line.startswith("> "):
            found[-1].text += "\n" + line.removeprefix("> ")
        else:
            assert found, f"{block}: output before any command"
            continues = False
            found[-1].output.append(line)
    return found


def _pattern(line: str) -> str:
    """Returns a line as a pattern: numbers and white space alike, `…` for anything."""
    literal = re.sub(r"([*?[])", r"[\1]", _plain(line))
    return literal.replace("…", "*")


def _plain(line: str) -> str:
    line = re.sub(r"snapshot-[0-9a-f]+", "snapshot-0", line)
    line = re.sub(r"responses/[A-Za-z0-9_-]{16,}", "responses/0", line)
    line = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "0", line)
    return " ".join(re.sub(r"\d+", "0", line).split())


def missing_lines(expected: list[str], printed: str) -> list[str]:
    """Returns the expected lines that were not printed, where the others were, in order."""
    lines = [_plain(line) for line in printed.splitlines()]
    missing, at = [], 0
    for line in expected:
        if not line.strip() or line.strip() == "…":
            continue
        pattern = _pattern(line)
        here = next((index for index in range(at, len(lines)) if fnmatchcase(lines[index], pattern)), None)
        if here is None:
            missing.append(line)
        else:
            at = here + 1
    return missing


@dataclass(frozen=True)
class RunningMesh:
    """A mesh that `sluice up` runs, and a copy of the repository in which commands run."""

    address: str
    checkout: Path
    environment: Mapping[str, str]

    def run(self, block: Block, skip: Mapping[str, str]) -> None:
        """Runs a console and compares its output. `skip` maps commands that are not run to their reasons."""
        wanted = [command for command in commands(block) if not skip_reason(command.text, skip)]
        if not wanted:
            return
        script = "".join(
            f"printf '\\n{_MARK} begin {index}\\n'\n{command.text.replace(ADDRESS, self.address)}\n"
            f"printf '\\n{_MARK} end {index} %s\\n' $?\n"
            for index, command in enumerate(wanted)
        )
        printed = self.shell(script)
        for index, command in enumerate(wanted):
            match = re.search(
                rf"^{_MARK} begin {index}\n(.*?)^{_MARK} end {index} (\d+)$", printed, re.MULTILINE | re.DOTALL
            )
            assert match, f"{block}: the shell ended before or in `{command.text}`:\n{printed}"
            output, code = match[1].replace(self.address, ADDRESS), int(match[2])
            fails = block.note == "fails" or (block.language != "console" and "fault=" in command.text)
            assert (code != 0) == fails, f"{block}: `{command.text}` ended with {code}:\n{output}"
            missing = missing_lines(command.output, output)
            allowed = sum(bool(line.strip("… ")) for line in command.output) // 2 if block.note == "sample" else 0
            assert len(missing) <= allowed, f"{block}: `{command.text}` did not print {missing}, but:\n{output}"

    def shell(self, script: str) -> str:
        """Runs a script of bash in the copy of the repository and returns all it printed."""
        ended = subprocess.run(
            ["bash", "-c", script],
            cwd=self.checkout,
            env=dict(self.environment),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_BLOCK_SECONDS,
        )
        return ended.stdout


def skip_reason(command: str, skip: Mapping[str, str]) -> str | None:
    """Returns why a command is not run; None if it is."""
    return next((reason for start, reason in skip.items() if command == start or command.startswith(f"{start} ")), None)


def check_out(folder: Path) -> Path:
    """Copies what git knows of the repository and what it does not ignore, and puts the environment beside it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
    else:  # not a clone, but an archive of the sources
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "node_modules"))
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


@contextmanager
def running_mesh(folder: Path, settings: str = "") -> Iterator[RunningMesh]:
    """Runs `sluice up` as the pages say, with its state below the folder and no vendor's key in its environment."""
    checkout = check_out(folder / "sluice")
    config = folder / "sluice.yaml"
    config.write_text(f"state_dir: {folder / 'state'}\nserver: {{drain_seconds: 1}}\n{settings}", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not _SECRETS.search(name)}
    environment["PATH"] = os.pathsep.join((str(ROOT / ".venv" / "bin"), str(folder / "bin"), os.environ["PATH"]))
    # Without their folder in them, Go's objects are found in its cache by the next run, whose folder is another one.
    environment["GOFLAGS"] = f"{os.environ.get('GOFLAGS', '')} -trimpath -buildvcs=false".strip()
    # The mesh is on this machine, whatever proxy leads away from it.
    environment |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")
    environment |= {"SLUICE_CONFIG": str(config), "GOBIN": str(folder / "bin"), "NO_COLOR": "1", "COLUMNS": "120"}
    up = [str(ROOT / ".venv" / "bin" / "sluice"), "up", "--json", "--port", "0"]
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(up, cwd=checkout, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        address = _await_ready(process, folder / "up.log")
        yield RunningMesh(address, checkout, environment | {"SLUICE_ADDRESS": address})
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_START_SECONDS)
        finally:
            process.kill()


def _await_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """Returns the address of the gateway once `sluice up` says that the mesh is ready."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("}\n") and (said := loads(line)).get("ready"):
                return str(said["address"])
        time.sleep(0.05)  # a log file cannot be awaited
    raise AssertionError(f"`sluice up` did not come up:\n{log.read_text(encoding='utf-8')}")
