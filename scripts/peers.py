"""The provider adapters against an independent mock of the vendors, which others wrote from the vendors' documents.

`make test-peers` runs it after `make setup`. It installs the mock into build/peers, in the exact version and with the
hashes of tests/peers/package-lock.json, starts it on a free port of the loopback interface, runs tests/peers/, and
stops it. Nothing but the installation needs the network, and a second run does not install again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
TESTS: Final = ROOT / "tests" / "peers"
CACHE: Final = ROOT / "build" / "peers"
MOCK: Final = Path("node_modules") / "@copilotkit" / "aimock" / "dist" / "cli.js"
STAMP: Final = "installed"
URL_VARIABLE: Final = "SLUICE_PEER_URL"
"""Tells the tests where the mock listens."""
_NODE: Final = 20
_LISTENING: Final = re.compile(r"listening on (http://\S+)")


def main(arguments: list[str]) -> int:
    """Runs the tests and returns their exit code; 2 if something that they need is missing."""
    problem = missing()
    if problem is not None:
        print(f"test-peers: {problem}", file=sys.stderr)
        return 2
    if not installed():
        problem = install()
        if problem is not None:
            print(f"test-peers: {problem}", file=sys.stderr)
            return 2
    # A stopped run must stop the mock as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with mock() as url:
        print("test-peers: pytest", flush=True)
        environment = os.environ | {URL_VARIABLE: url}
        command = [sys.executable, "-m", "pytest", str(TESTS), *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def missing() -> str | None:
    """Returns what is missing on this machine; None if nothing is."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            return f"{tool} is not on PATH; install Node.js {_NODE} or newer, which brings node and npm"
    version = subprocess.run(["node", "--version"], check=False, capture_output=True, text=True).stdout.strip()
    found = re.match(r"v(\d+)\.", version)
    if found is None or int(found.group(1)) < _NODE:
        return f"Node.js {_NODE} or newer is needed, this is {version or 'unknown'}"
    return None


def fingerprint() -> str:
    """Returns a digest of what is to be installed."""
    return hashlib.sha256((TESTS / "package-lock.json").read_bytes()).hexdigest()


def installed() -> bool:
    """Tells whether the cache holds what the lock names."""
    stamp = CACHE / STAMP
    return (CACHE / MOCK).is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == fingerprint()


def install() -> str | None:
    """Installs the mock. Returns what went wrong; None if nothing did.

    npm itself refuses a package whose hash is not the lock's, and no script of a package is run.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / STAMP).unlink(missing_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(TESTS / name, CACHE / name)
    print("test-peers: npm ci", flush=True)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    if subprocess.run(command, cwd=CACHE, check=False, stdin=subprocess.DEVNULL).returncode:
        return "the mock could not be installed; npm says above why"
    (CACHE / STAMP).write_text(fingerprint(), encoding="utf-8")
    return None


@contextmanager
def mock() -> Iterator[str]:
    """Runs the mock for the length of the block, and yields its address."""
    command = ["node", str(CACHE / MOCK), "--host", "127.0.0.1", "--port", "0", "--log-level", "info"]
    command += ["--strict", "--validate-on-load", "--fixtures", str(TESTS / "answers.json")]
    with subprocess.Popen(command, cwd=CACHE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield address(process)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def address(process: subprocess.Popen[str]) -> str:
    """Waits until the mock listens, and returns where."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        found = _LISTENING.search(line)
        if found is not None:
            # What it says later is read and forgotten: a full pipe would stop it.
            threading.Thread(target=deque, args=(process.stdout, 0), daemon=True).start()
            return found.group(1)
    sys.exit("test-peers: the mock ended at once:\n" + "".join(said))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
