"""What a backup takes of the service's folder: its records, and the vectors and texts that these name."""

import contextlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from sluice_kit.backup import State, copy_database
from sluice_kit.config import ConfigDocument
from sluice_kit.copying import copy_folder
from sluice_retrieval.blobs import path_of, tenant_folder
from sluice_retrieval.config import RetrievalConfig
from sluice_retrieval.store.base import Generation
from sluice_retrieval.store.edge import folder_of

RECORDS: Final = "records.sqlite"
_TRIES: Final = 5
_VISIBLE: Final = (
    "SELECT tenant, corpus, id, number, dimensions, store FROM generations"
    " WHERE index_time IS NOT NULL AND replace_time IS NULL AND store = 'edge'"
)


def state(document: ConfigDocument) -> State:
    """Returns the state of the retrieval service of a configuration. Raises ConfigError."""
    config = document.section("retrieval", RetrievalConfig)
    folder = document.resolve(config.folder) if config.folder else document.state_dir() / "retrieval"
    elsewhere: list[str] = []
    if config.records.url is not None:
        elsewhere.append("corpora, tasks and texts of retrieval: in Postgres")
    if config.store.qdrant.url:
        elsewhere.append("vectors of retrieval: in Qdrant")
    return State(
        "retrieval",
        folder,
        lambda target: _copy(folder, target),
        (folder / RECORDS).exists,
        elsewhere,
    )


def _copy(folder: Path, target: Path) -> None:
    for left in reversed(range(_TRIES)):
        try:
            _copy_once(folder, target)
            return
        except FileNotFoundError:
            # An index took the place of one that was being copied. The next try has the new one.
            if not left:
                raise
            for entry in target.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _copy_once(folder: Path, target: Path) -> None:
    if not (folder / RECORDS).exists():
        return
    # First, because what the records name stays for a while, and what comes later nobody misses.
    copy_database(folder / RECORDS, target / RECORDS)
    with closing(sqlite3.connect(target / RECORDS)) as records:
        generations = [Generation(*row) for row in records.execute(_VISIBLE)]
        blobs = records.execute("SELECT DISTINCT tenant, blob_sha256 FROM documents WHERE blob_sha256 != ''").fetchall()
    for generation in generations:
        place = folder_of(folder / "vectors", generation)
        copy_folder(place, target / place.relative_to(folder))
        if not place.is_dir():
            raise FileNotFoundError(place)
    for tenant, digest in blobs:
        place = path_of(tenant_folder(folder / "blobs", tenant), digest)
        copied = target / place.relative_to(folder)
        copied.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # expired meanwhile, or lost, which the service can say better
            shutil.copyfile(place, copied)
