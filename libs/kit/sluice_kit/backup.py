"""Backups of what services keep on disk: made while they run, checked when they are restored.

Each service knows its own state and offers it under the entry-point group `sluice.state`, as a function that returns a
`State` for a configuration. A backup is a folder with a folder for each service, and a manifest with the digest of every
file. What services keep elsewhere (Postgres, Qdrant, Redis) is backed up by the tools of those; a backup names it.

    python -m sluice_kit.backup create --config sluice.yaml FOLDER
    python -m sluice_kit.backup restore --config sluice.yaml FOLDER

is for images that have no `sluice` command; `sluice backup` and `sluice restore` do the same.
"""

import argparse
import hashlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import msgspec

from sluice_kit.config import ConfigDocument, ConfigError, load
from sluice_kit.copying import copy_folder

GROUP: Final = "sluice.state"
"""Entry-point group of functions `(document) -> State`."""
_MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
_PARTIAL: Final = ".partial"


class BackupError(Exception):
    """A backup cannot be made or restored. The message says why, for people."""


@dataclass(frozen=True, slots=True)
class State:
    """What one service keeps on disk."""

    name: str
    """Of the service, and of its folder in a backup."""
    folder: Path
    """Where it is kept, and restored to."""
    copy: Callable[[Path], None]
    """Copies it into a folder, which is there and empty. The service may be running. Raises OSError, sqlite3.Error."""
    holds: Callable[[], bool]
    """Tells whether there is anything in `folder` that a restore would overwrite."""
    elsewhere: Sequence[str] = ()
    """What it keeps somewhere else, for people: what and in what."""


class _File(msgspec.Struct, frozen=True):
    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds."""

    format: int
    create_time: datetime
    services: tuple[str, ...]
    elsewhere: tuple[str, ...]
    """What is not in it, for people."""
    files: tuple[_File, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def states(document: ConfigDocument) -> Iterator[State]:
    """Yields the state of every service that is installed here. Raises ConfigError."""
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        yield entry.load()(document)


def create(document: ConfigDocument, target: Path) -> Manifest:
    """Makes a backup in a new folder; a backup that fails leaves none. Raises BackupError, ConfigError.

    Where no service ever kept anything it is refused: whoever has a backup made every night has to hear that it is of
    nothing.
    """
    if target.exists():
        raise BackupError(f"{target} exists already; a backup goes into a new folder")
    for state in states(document):
        if target.resolve().is_relative_to(state.folder.resolve()):
            raise BackupError(f"{target} lies in {state.folder}, which is to be backed up; name a folder outside")
    draft = target.with_name(target.name + _PARTIAL)
    try:
        shutil.rmtree(draft, ignore_errors=True)  # of one that was interrupted
        draft.mkdir(parents=True, mode=0o700)  # it holds texts, and what people signed in with
        services: list[str] = []
        elsewhere: list[str] = []
        for state in states(document):
            elsewhere += state.elsewhere
            if state.folder.is_dir():
                place = draft / state.name
                place.mkdir(mode=0o700)
                state.copy(place)
                services.append(state.name)
        if not services:
            raise BackupError(
                f"no service keeps anything in {document.state_dir()}: is that the configuration of the mesh?"
            )
        files = tuple(_describe(path, draft) for path in sorted(_files(draft)))
        manifest = Manifest(_FORMAT, datetime.now(UTC), tuple(services), tuple(elsewhere), files)
        (draft / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        draft.rename(target)
    except BackupError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise BackupError(f"the backup cannot be made: {error}") from None
    return manifest


def read(source: Path) -> Manifest:
    """Reads the manifest of a backup and checks every file against it. Raises BackupError."""
    try:
        manifest = msgspec.json.decode((source / _MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        raise BackupError(f"{source} is no backup: it has no {_MANIFEST}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise BackupError(f"{source / _MANIFEST} cannot be read: {error}") from None
    if manifest.format > _FORMAT:
        raise BackupError(f"{source} was made by a newer version of this program")
    listed = {file.path for file in manifest.files}
    for path in _files(source):
        name = path.relative_to(source).as_posix()
        if name not in listed and name != _MANIFEST:
            raise BackupError(f"{source} was changed: {name} is not in its manifest")
    for file in manifest.files:
        try:
            found = _describe(source / file.path, source)
        except OSError as error:
            raise BackupError(f"{source} is damaged: {file.path}: {error.strerror}") from None
        if found != file:
            raise BackupError(f"{source} is damaged: {file.path} is not as it was written")
    return manifest


def restore(document: ConfigDocument, source: Path) -> Manifest:
    """Puts a backup where services expect their state. They must not run, and must have none yet.

    Raises BackupError, before anything is written wherever that can be known, and ConfigError.
    """
    manifest = read(source)
    here = {state.name: state for state in states(document)}
    for name in manifest.services:
        if name not in here:
            raise BackupError(f"the backup holds state of {name}, which is not installed here")
        if here[name].holds():
            raise BackupError(f"{here[name].folder} holds state already; stop the mesh and move it away first")
    for name in manifest.services:
        state = here[name]
        draft = state.folder.with_name(state.folder.name + _PARTIAL)
        try:
            shutil.rmtree(draft, ignore_errors=True)
            state.folder.parent.mkdir(parents=True, exist_ok=True)
            copy_folder(source / name, draft)
            shutil.rmtree(state.folder, ignore_errors=True)  # nothing that counts is in it
            draft.rename(state.folder)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise BackupError(f"{state.folder} cannot be restored: {error}") from None
    return manifest


def copy_database(source: Path, target: Path) -> None:
    """Copies an SQLite database as it is at one moment, whoever writes to it. Raises sqlite3.Error, OSError."""
    target.touch(0o600)
    uri = f"{source.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=30)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _describe(path: Path, root: Path) -> _File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return _File(path.relative_to(root).as_posix(), os.fstat(file.fileno()).st_size, digest)


def main(argv: Sequence[str] | None = None) -> int:
    """Makes or restores a backup and returns the exit code."""
    parser = argparse.ArgumentParser(prog="sluice-backup", description="Back up what services keep on disk.")
    parser.add_argument("action", choices=("create", "restore"))
    parser.add_argument("folder", type=Path, help="the backup; it must not exist when it is made")
    parser.add_argument("--config", type=Path, default=None, help="the sluice.yaml of the services")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(argv)
    try:
        document = load(options.config, options.overrides)
        manifest = (create if options.action == "create" else restore)(document, options.folder)
    except (BackupError, ConfigError) as error:
        print(f"sluice-backup: {error}", file=sys.stderr)
        return 1
    print(f"{options.folder}: {', '.join(manifest.services) or 'no state'}, {manifest.size_bytes} bytes")
    for what in manifest.elsewhere:
        print(f"not in it: {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
