"""What a run was made with."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from bench import peers

_PACKAGES = ("grpcio", "protobuf", "uvloop", "aiohttp", "msgspec", "openai", "sqlalchemy")


def versions(names: list[str], packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Returns the versions of everything that takes part; `names` are the paths of the run."""
    found = {
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    commit = _commit()
    if commit:
        found["commit"] = commit
    found |= {package: metadata.version(package) for package in packages}
    return found | {name: peers.version(name) for name in names if name in peers.PEERS}


def _commit() -> str:
    """Returns the commit that is checked out, marked where files differ from it; nothing outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(git, check=False, capture_output=True, text=True).stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
