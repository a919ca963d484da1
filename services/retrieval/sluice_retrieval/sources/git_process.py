"""Runs git so that nothing but its own objects and the one place that was allowed has a say.

Nothing of the user's or the system's configuration is used, and nothing that a repository could run: no hooks, no
submodules, no filters, no helpers but our own. A remote is spoken to over https alone, without redirects, at the
addresses that were checked.
"""

import contextlib
import copy
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sluice_retrieval.children.runtime import die_with_parent
from sluice_retrieval.sources.found import Budget, unreadable
from sluice_retrieval.sources.login import Login

_POLL_SECONDS: Final = 0.1
_SILENCE_SECONDS: Final = 120
_MEMORY_BYTES: Final = 4 << 30
"""Memory of one process of git; what a pack inflates to in memory may be any size."""
_STREAMED: Final = "16m"
"""Blobs above this size pass through git in pieces."""
# Nothing of the repository that is served runs or is asked for elsewhere, whatever its configuration says.
_SERVE: Final = "GIT_ALLOW_PROTOCOL= GIT_NO_LAZY_FETCH=1 git-upload-pack"


class Git:
    """Git in one bare repository of our own."""

    def __init__(
        self,
        folder: Path,
        budget: Budget,
        *,
        host: str = "",
        port: int = 0,
        addresses: Sequence[str] = (),
        ca_file: str | None = None,
        login: Login | None = None,
    ) -> None:
        """`host` is empty for a repository on this machine. `ca_file` None: the system's certificates."""
        self.folder = folder
        self._budget = budget
        self._place = f"{host}:{port}" if host else ""
        self._addresses = ",".join(addresses)
        self._ca_file = ca_file
        self._login = login

    def within(self, folder: Path) -> "Git":
        """Returns the same in another folder."""
        other = copy.copy(self)
        other.folder = folder
        return other

    def start(self, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Starts git for what needs no network. Raises ChildFailure: SOURCE_UNREADABLE."""
        return self._start(self._settings(), words, stdin=stdin)

    def run(self, *words: str) -> bool:
        """Runs git for what needs no network; tells whether it succeeded. Raises SOURCE_LIMIT_EXCEEDED."""
        return self._finish(self.start(*words), lambda: None)

    def output(self, *words: str) -> str:
        """Runs git and returns the start of what it prints."""
        with self.start(*words) as process:
            assert process.stdout is not None
            return process.stdout.read(4096).decode(errors="replace").strip()

    def fetch(self, url: str, refspec: str, watch: Callable[[], None]) -> bool:
        """Fetches one commit; tells whether it succeeded. `watch` is called meanwhile, and may raise to end it."""
        words = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"]
        if not self._place:
            words.append(f"--upload-pack={_SERVE}")
        words += ["--end-of-options", url, refspec]
        settings = self._settings() | self._network()
        if self._login is None:
            return self._finish(self._start(settings, words), watch)
        # The token waits in a pipe that git's helper reads when the host asks for it: it is in no argument, no
        # environment and no file. The helper is named for this one host.
        reading, writing = os.pipe()
        try:
            os.write(writing, f"username={self._login.user}\npassword={self._login.token}\n".encode())
        finally:
            os.close(writing)
        try:
            settings[f"credential.https://{self._place}.helper"] = (
                f'!f() {{ test "$1" = get && cat /dev/fd/{reading}; }}; f'
            )
            process = self._start(settings, words, pass_fds=(reading,))
        finally:
            os.close(reading)
        return self._finish(process, watch)

    def _network(self) -> dict[str, str]:
        settings = {
            "http.followRedirects": "false",
            "http.proxy": "",
            "http.emptyAuth": "false",
            # A process that speaks to a silent host ends, even if nobody is left to end it.
            "http.lowSpeedLimit": "1",
            "http.lowSpeedTime": str(_SILENCE_SECONDS),
            "protocol.https.allow" if self._place else "protocol.file.allow": "always",
            # Always as a pack: its head says how many objects it has, before they are there.
            "fetch.unpackLimit": "1",
            "transfer.unpackLimit": "1",
        }
        if self._place:
            # The name was looked up and checked once; git must not look it up again and find another place.
            settings["http.curloptResolve"] = f"{self._place}:{self._addresses}"
        if self._ca_file is not None:
            settings["http.sslCAInfo"] = self._ca_file
        return settings

    @staticmethod
    def _settings() -> dict[str, str]:
        return {
            "core.hooksPath": os.devnull,
            "core.symlinks": "false",
            "core.fsmonitor": "false",
            "core.askPass": "",
            "core.bigFileThreshold": _STREAMED,
            "credential.helper": "",
            "fetch.recurseSubmodules": "false",
            "gc.auto": "0",
            "maintenance.auto": "false",
            "protocol.allow": "never",
            "safe.directory": "*",
        }

    def _start(
        self,
        settings: dict[str, str],
        words: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_CEILING_DIRECTORIES": str(self.folder.parent),
        }
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            if name in os.environ:
                environment[name] = os.environ[name]
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        try:
            return subprocess.Popen(
                ["git", *options, *words],
                cwd=self.folder,
                env=environment,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=pass_fds,
                preexec_fn=self._prepare,  # noqa: PLW1509  # children of this child start no threads before this
            )
        except FileNotFoundError:
            raise unreadable("git is not installed where the retrieval service runs") from None

    def _prepare(self) -> None:
        die_with_parent()
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
        # What is on the disk is looked at now and then; one file cannot outgrow the limit in between.
        most = self._budget.max_total_bytes + (1 << 20)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    def _finish(self, process: subprocess.Popen[bytes], watch: Callable[[], None]) -> bool:
        """Waits for the end of git within the budget of time."""
        try:
            while True:
                left = self._budget.check_time()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(min(left, _POLL_SECONDS)) == 0
                watch()
        finally:
            if process.poll() is None:
                # What it started ends with the group of this child, which is killed after any failure.
                process.send_signal(signal.SIGKILL)
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
