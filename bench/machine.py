"""What a run was made with."""

import os
import platform
from importlib import metadata
from pathlib import Path

from bench import peers

_PACKAGES = ("grpcio", "protobuf", "uvloop", "aiohttp", "msgspec", "openai", "sqlalchemy")


def versions(names: list[str]) -> dict[str, str]:
    """Returns the versions of everything that takes part; `names` are the paths of the run."""
    found = {
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    found |= {package: metadata.version(package) for package in _PACKAGES}
    return found | {name: peers.version(name) for name in names if name in peers.PEERS}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
