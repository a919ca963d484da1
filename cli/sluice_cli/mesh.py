"""Finds the mesh that a command talks to."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sluice_kit.config import ConfigDocument

DEFAULT_ADDRESS: Final = "127.0.0.1:7400"
CONFIG_NAME: Final = "sluice.yaml"


@dataclass(frozen=True, slots=True)
class MeshFile:
    """What `sluice up` writes into its state folder, so that other commands find it."""

    address: str
    """The gateway's address; with https:// where it does TLS."""
    pid: int
    """The supervisor's process."""
    runtime_dir: str
    """The private folder with the Unix sockets."""
    logs_dir: str
    """Where the services write their logs."""

    def alive(self) -> bool:
        """Whether the supervisor still runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # it runs, as another user
        return True


@dataclass(frozen=True, slots=True)
class Target:
    """The gateway to call."""

    address: str
    """What grpc connects to."""
    tls: bool
    key: str | None
    origin: str
    """Where the address comes from, for people."""


def config_path(explicit: Path | None) -> Path | None:
    """Returns the configuration file to read: the one given, $SLUICE_CONFIG, ./sluice.yaml, or none."""
    if explicit is not None:
        return explicit
    named = os.environ.get("SLUICE_CONFIG")
    if named:
        return Path(named)
    here = Path.cwd() / CONFIG_NAME
    return here if here.is_file() else None


def mesh_file(document: "ConfigDocument") -> Path:
    """Returns where `sluice up` says that it runs."""
    return document.state_dir() / "run" / "mesh.json"


def read_mesh_file(path: Path) -> MeshFile | None:
    """Returns what the file says; None if there is none, or none that can be read."""
    try:
        return MeshFile(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None  # absent, half written, or of another version: all of them mean "not known"


def write_mesh_file(path: Path, mesh: MeshFile) -> None:
    """Writes the file in one step: readers see the old one or the new one."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(asdict(mesh), indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def find(address: str | None, key: str | None) -> Target:
    """Returns the gateway to call: the address given, that of the running `sluice up`, or the default one."""
    if address:
        return _target(address, key, "as given")
    from sluice_kit.config import ConfigError, load

    try:
        document = load(config_path(None))
    except ConfigError as error:
        # A client needs the file for one thing only; what is wrong with the rest is for `sluice up` to say.
        print(f"sluice: {error} (looking for the mesh at its default address)", file=sys.stderr)
        return Target(DEFAULT_ADDRESS, False, key, "the default")
    mesh = read_mesh_file(mesh_file(document))
    if mesh is not None and mesh.alive():
        return _target(mesh.address, key, "the running `sluice up`")
    return Target(DEFAULT_ADDRESS, False, key, "the default")


def _target(address: str, key: str | None, origin: str) -> Target:
    bare = address.removeprefix("https://").removeprefix("http://").rstrip("/")
    return Target(bare, address.startswith("https://"), key, origin)
