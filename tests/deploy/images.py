"""What deploy/docker/images.txt says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DOCKER: Final = ROOT / "deploy" / "docker"


@dataclass(frozen=True)
class Image:
    """One row of images.txt."""

    name: str
    lock: str
    members: tuple[str, ...]
    packages: tuple[str, ...]
    command: str

    @property
    def adapter(self) -> str | None:
        """The adapter it is for, if it is one's."""
        return self.name.removeprefix("providers-") if self.name.startswith("providers-") else None


@cache
def images() -> dict[str, Image]:
    """Returns every image by name."""
    found = {}
    for line in (DOCKER / "images.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, lock, members, packages, command = line.split(" | ")
            extra = () if packages == "-" else tuple(packages.split())
            found[name] = Image(name, lock, tuple(members.split(",")), extra, command)
    return found
