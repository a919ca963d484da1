"""What the `ollama` command line tells of models, for when the server does not answer."""

import asyncio
import contextlib
import os
import re
import signal
from dataclasses import dataclass
from typing import Final

_MAX_BYTES: Final = 1024 * 1024
# What the command needs to run and to find its own files; credentials are none of its business.
_PASSED_ON: Final = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LD_LIBRARY_PATH"}
)
_ROW: Final = re.compile(r"^(\S+)\s+([0-9a-f]{8,64})\s+(-|\d+(?:\.\d+)?\s*[KMGTP]?i?B)(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of `ollama list`."""

    name: str
    digest: str
    """The beginning of its digest, in lower-case hex."""
    size: str
    """For people, e.g. "2.0 GB"; rounded. Empty: the model is not on this machine."""


def parse(table: str) -> list[Listed]:
    """Returns the rows of a table of `ollama list`: NAME, ID, SIZE, MODIFIED. Every other line is passed over."""
    found = (_ROW.match(line.strip()) for line in table.splitlines())
    return [Listed(row[1], row[2], "" if row[3] == "-" else " ".join(row[3].split())) for row in found if row]


async def listed(command: str, address: str, seconds: float) -> list[Listed]:
    """Runs `ollama list` for at most so many seconds and returns its rows.

    `address` is the server that it asks, should it ask one. Raises OSError if the command cannot be run, and
    TimeoutError. The command and all that it started are killed when it takes too long and when the caller is
    cancelled.
    """
    environment = {name: value for name, value in os.environ.items() if name in _PASSED_ON}
    process = await asyncio.create_subprocess_exec(
        command,
        "list",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        # Models of another server than ours would be no answer.
        env=environment | {"OLLAMA_HOST": address},
    )
    try:
        async with asyncio.timeout(seconds):
            table = await _output(process)
            code = await process.wait()
    except BaseException:
        _kill(process)
        # Reaped in any case; killed, so this is no wait.
        await asyncio.shield(process.wait())
        raise
    return parse(table) if code == 0 else []


async def _output(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None  # asked for above
    parts: list[bytes] = []
    size = 0
    while chunk := await process.stdout.read(65536):
        size += len(chunk)
        if size > _MAX_BYTES:
            raise OSError("the command writes more than a table of models")
        parts.append(chunk)
    return b"".join(parts).decode(errors="replace")


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
