"""The folders of a running mesh: one lock for each state folder, a private place for sockets, the logs."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from sluice_cli.mesh import MeshFile, read_mesh_file

_PREFIX: Final = "sluice-"
_MAX_BASE: Final = 60
"""Bytes of the folder that sockets' folders are made in: longer ones leave no room for names."""


class AlreadyRunning(Exception):
    """Another `sluice up` uses the state folder; the message says which."""


class StateLock:
    """Held by the one `sluice up` of a state folder. The system releases it when the process ends, however it ends."""

    def __init__(self, run_dir: Path) -> None:
        """Raises AlreadyRunning."""
        run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(run_dir / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            mesh = read_mesh_file(run_dir / "mesh.json")
            where = f" at {mesh.address} (process {mesh.pid})" if mesh is not None else ""
            raise AlreadyRunning(f"a mesh already runs{where} with the state folder {run_dir.parent}") from None

    def release(self) -> None:
        """Lets another one start."""
        os.close(self._file)


def make_runtime_dir() -> Path:
    """Makes a folder for sockets that only this user can enter, with a short path."""
    candidates = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]  # noqa: S108 - mkdtemp makes it safe
    base = next((one for one in candidates if one and len(one.encode()) <= _MAX_BASE and os.access(one, os.W_OK)), None)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))


def remove_leftovers(mesh: MeshFile | None) -> None:
    """Removes the sockets' folder of a mesh whose supervisor was killed."""
    if mesh is None or mesh.alive():
        return
    folder = Path(mesh.runtime_dir)
    try:
        ours = folder.name.startswith(_PREFIX) and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    except FileNotFoundError:
        return
    if ours:
        shutil.rmtree(folder, ignore_errors=True)
