"""The demonstration: a mesh of real services, this repository indexed, two questions answered with citations.

It needs no key and no server, and uses none: the configuration is written out here, the environment is scrubbed, and
everything it makes lies in a temporary folder that is removed at the end. `make demo` runs it after `make setup`.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
SLUICE: Final = Path(sys.executable).with_name("sluice")
CORPUS: Final = "sluice"
QUESTIONS: Final = (
    "How does the supervisor make sure that no orphan process remains?",
    "How is the wait before the next try chosen, with jitter and patience?",
)
# Pages and tests repeat what the code says, and this file holds the questions themselves.
NOT_INDEXED: Final = ("tests/", "scripts/", "bench/", "*.md")
CONFIG: Final = """\
# Two adapters that need nothing: one quotes what was indexed, one plays scripts.
state_dir: {state}
providers:
  extractive: {{adapter: extractive}}
  scripted: {{adapter: scripted}}
gateway:
  routes:
    default: {{targets: [extractive/quote]}}
"""
_KEPT: Final = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "COLUMNS", "LINES", "NO_COLOR", "TMPDIR", "TZ")
_READY_SECONDS: Final = 60
_STOP_SECONDS: Final = 40


def main() -> int:
    """Runs the demonstration and returns the exit code."""
    began = time.monotonic()
    problem = missing()
    if problem is not None:
        print(f"demo: {problem}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="sluice-demo-") as folder:
        environment = scrubbed(Path(folder))
        config = Path(folder) / "sluice.yaml"
        config.write_text(CONFIG.format(state=json.dumps(str(Path(folder) / "state"))), encoding="utf-8")
        say("Starting a mesh: a gateway, two model adapters and a retrieval service, each a process of its own")
        with mesh(config, environment) as address:
            environment["SLUICE_ADDRESS"] = address
            say("Indexing this repository")
            excludes = [word for pattern in NOT_INDEXED for word in ("--exclude", pattern)]
            run(["index", ".", "--name", CORPUS, *excludes], environment)
            for question in QUESTIONS:
                say("Asking about it; the answer streams, its citations are checked against the files")
                run(["ask", question, "--corpus", CORPUS], environment)
            say("Stopping")
    print("   everything is stopped, the temporary folder is removed")
    say(f"That was all, in {time.monotonic() - began:.0f} s. Where to go next")
    print(
        "   .venv/bin/sluice up                        a mesh of your own; OPENAI_API_KEY or ANTHROPIC_API_KEY add models\n"
        "   .venv/bin/sluice index PATH_OR_URL         any folder or git repository\n"
        '   .venv/bin/sluice ask "…" --corpus NAME     and any question about it\n'
        "   .venv/bin/sluice --help                    everything else\n"
        "   README.md                                  the services, and how to call them from other languages"
    )
    return 0


def missing() -> str | None:
    """Returns what the demonstration lacks, for people; None if it can run."""
    if sys.platform == "win32":
        return "it needs Unix sockets; on Windows run it inside WSL"
    if not SLUICE.is_file():
        return f"{SLUICE} is not there: run `make setup`, then `make demo`"
    check = subprocess.run([str(SLUICE), "version"], check=False, capture_output=True, text=True)
    if check.returncode != 0:
        reason = (check.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return f"{SLUICE} does not run ({reason}): run `make clean setup`, then `make demo`"
    return None


def scrubbed(folder: Path) -> dict[str, str]:
    """Returns an environment without keys, settings or a home: what runs in it can only use what is written here."""
    home = folder / "home"
    home.mkdir()
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"HOME": str(home)}


def say(text: str) -> None:
    """Announces a step."""
    print(f"\n== {text}", flush=True)


def run(arguments: list[str], environment: Mapping[str, str]) -> None:
    """Shows a command and runs it as a person would. Ends the demonstration if it fails."""
    print(f"   $ sluice {shlex.join(arguments)}", flush=True)
    result = subprocess.run([str(SLUICE), *arguments], cwd=ROOT, env=dict(environment), check=False)
    if result.returncode != 0:
        raise SystemExit(f"demo: sluice {arguments[0]} failed with exit code {result.returncode}")


@contextmanager
def mesh(config: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Runs `sluice up` for the length of the block and yields the gateway's address."""
    command = [str(SLUICE), "up", "--config", str(config), "--port", "0", "--json", "--until-stdin-closes"]
    print(f"   $ sluice up --config {config.name} --port 0", flush=True)
    # A group of its own: Ctrl-C reaches this process alone, which then stops the mesh in order.
    # The pipe to its input ends with this process, however it ends, and the mesh ends with the pipe.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield _wait_ready(process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            # Its lines are read to the end, so that it is never held up by a full pipe.
            process.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _wait_ready(process: subprocess.Popen[str]) -> str:
    """Shows what comes up and returns the gateway's address. Ends the demonstration if the mesh does not start."""
    assert process.stdout is not None  # it was asked for
    last: dict[str, str] = {}
    until = time.monotonic() + _READY_SECONDS
    for line in process.stdout:
        said: dict[str, Any] = json.loads(line)
        if said.get("ready"):
            return str(said["address"])
        name, state, detail = said.get("service", ""), said.get("state", ""), said.get("detail", "")
        if name and state == "up" and last.get(name) != "up":
            print(f"   {name:11} up, process {said['pid']}", flush=True)
        if detail:
            print(f"   {name:11} {state}: {detail}; its log: {said['log']}", file=sys.stderr)
        if said.get("message"):
            print(f"   {said['message']}", file=sys.stderr)
        last[name] = state
        if time.monotonic() > until:
            break
    raise SystemExit(f"demo: the mesh did not start within {_READY_SECONDS} s")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        print("demo: interrupted; everything is stopped", file=sys.stderr)
        raise SystemExit(130) from None
