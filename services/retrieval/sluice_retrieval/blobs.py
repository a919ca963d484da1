"""Texts by their hash: files in a folder for each tenant, and rows of the records where processes share those."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Container
from pathlib import Path


def tenant_folder(root: Path, tenant: str) -> Path:
    """Returns the folder of a tenant, whose name may be anything."""
    return root / hashlib.sha256(tenant.encode()).hexdigest()[:24]


def path_of(folder: Path, digest: str) -> Path:
    """Returns where a tenant's folder has a blob."""
    return folder / digest[:2] / digest


class BlobFolder:
    """The blobs of one tenant. Blocking: use it from threads and children."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        """Keeps the bytes and returns their lower-case hex SHA-256."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        with contextlib.suppress(FileNotFoundError):
            # One that a crash of the machine left short is written again.
            if path.stat().st_size == len(data):
                return digest
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            # Whole or not at all. Whether it is whole after a crash of the machine is seen when it is read.
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return digest

    def has(self, digest: str) -> bool:
        """Tells whether a blob is there; it may be damaged."""
        return self._path(digest).exists()

    def get(self, digest: str) -> bytes | None:
        """Returns the bytes, or None if they are not there, or damaged."""
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == digest else None

    def sweep(self, wanted: Container[str]) -> int:
        """Deletes all but the wanted ones, and what was left half written. Returns how many."""
        count = 0
        for path in self._folder.glob("??/*"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)
                count += 1
        return count

    def _path(self, digest: str) -> Path:
        return path_of(self._folder, digest)
