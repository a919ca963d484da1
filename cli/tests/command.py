"""The command as a process, against a mesh in this one."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

SLUICE: Final = Path(sys.executable).with_name("sluice")


def variables(address: str) -> dict[str, str]:
    """Returns an environment in which the command finds the mesh, and nothing else that could lead it astray."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SLUICE_") and not name.lower().endswith("_proxy")
    }
    return kept | {"SLUICE_ADDRESS": address, "NO_COLOR": "1", "COLUMNS": "110", "LINES": "40", "TERM": "xterm"}


async def both(address: str, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Runs a command with pipes, checks its exit code, and returns its standard output and standard error."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        SLUICE, *arguments, env=variables(address), stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )
    out, err = await process.communicate()
    assert process.returncode == code, out + err
    return out.decode(), err.decode()


async def said(address: str, *arguments: str, code: int = 0) -> str:
    """Runs a command as `both` does and returns its standard output."""
    return (await both(address, *arguments, code=code))[0]
