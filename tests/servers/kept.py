"""A server's process, which ends when the tests do, however they end."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

SECONDS: Final = 60.0
"""Bound of every wait: far above what is needed, so that only a hang reaches it."""

# Between the tests and the server, because subprocess would fork to change the user, which gRPC's threads do not
# survive; and because a killed pytest ends nothing: what it held open is closed, and this program reads the end of it.
_KEEPER: Final = """
import os, subprocess, sys
user, group, number, said, *command = sys.argv[1:]
if user:
    os.setgroups([])
    os.setgid(int(group))
    os.setuid(int(user))
with open(said, "ab") as out:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
print(child.pid, flush=True)
sys.stdin.buffer.read()
child.send_signal(int(number))
sys.exit(max(child.wait(), 0))
"""


class Kept:
    """One process of a server, and what it says."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        environment: Mapping[str, str],
        user: pwd.struct_passwd | None = None,
        end: int = signal.SIGKILL,
    ) -> None:
        """Starts it in a folder; `end` is what ends it at once, 0 if it ends by itself."""
        self._said = folder / "said"
        self._command = command
        who = [str(user.pw_uid), str(user.pw_gid)] if user else ["", ""]
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _KEEPER, *who, str(int(end)), str(self._said), *command],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt from the terminal is for the tests, which then end it
        )
        assert self._keeper.stdout is not None
        self.pid = int(self._keeper.stdout.readline() or b"0")
        """The process of the server itself."""
        assert self.pid, self.said()

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Waits until it is ready; RuntimeError with what it said if it ended instead."""
        limit = time.monotonic() + SECONDS
        while not ready():
            if not self.alive() or time.monotonic() > limit:
                self.end()
                raise RuntimeError(f"{self._command[0]} did not start: {self.said()}")
            time.sleep(0.01)  # another process begins to listen

    def alive(self) -> bool:
        """Tells whether the server runs."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    def end(self) -> int:
        """Ends it at once, or waits until it ended by itself, and returns its exit code then."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        code = self._keeper.wait(SECONDS)
        self._keeper.stdout.close()
        return code

    def said(self) -> str:
        """Returns the last of what it wrote."""
        try:
            return self._said.read_text(encoding="utf-8", errors="replace")[-4000:]
        except OSError:
            return "nothing"
