"""Backups of states that the tests make up: what is refused, and that nothing is lost or half done."""

import json
import shutil
import sqlite3
from contextlib import closing
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from sluice_kit import backup
from sluice_kit.backup import BackupError, State, copy_database
from sluice_kit.config import ConfigDocument
from sluice_kit.copying import copy_folder
from sluice_kit.testing import document_of


def state(document: ConfigDocument) -> State:
    """A service with one database."""
    folder = document.state_dir() / "notes"

    def copy(target: Path) -> None:
        copy_database(folder / "notes.db", target / "notes.db")

    return State("notes", folder, copy, (folder / "notes.db").exists, ["drawings: on paper"])


def no_state(document: ConfigDocument) -> State:
    """A service that has not kept anything yet."""
    return State("idle", document.state_dir() / "idle", lambda target: None, lambda: False)


@pytest.fixture(autouse=True)
def _services(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [EntryPoint(name, "", backup.GROUP) for name in ("state", "no_state")]
    monkeypatch.setattr(EntryPoint, "load", lambda self: {"state": state, "no_state": no_state}[self.name])
    monkeypatch.setattr(backup, "entry_points", lambda group: rows)


@pytest.fixture
def document(tmp_path: Path) -> ConfigDocument:
    found = document_of({"state_dir": str(tmp_path / "state")}, tmp_path)
    write(found, "one")
    return found


def write(document: ConfigDocument, text: str) -> None:
    folder = document.state_dir() / "notes"
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / "notes.db")) as database, database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
        database.execute("INSERT INTO notes VALUES (?)", (text,))


def notes(document: ConfigDocument) -> list[str]:
    with closing(sqlite3.connect(document.state_dir() / "notes" / "notes.db")) as database:
        return [text for (text,) in database.execute("SELECT text FROM notes")]


def test_what_was_there_comes_back(document: ConfigDocument, tmp_path: Path) -> None:
    path = document.state_dir() / "notes" / "notes.db"
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("INSERT INTO notes VALUES ('not committed')")
        made = backup.create(document, tmp_path / "backup")
    assert (made.services, made.elsewhere) == (("notes",), ("drawings: on paper",))
    assert [file.path for file in made.files] == ["notes/notes.db"]
    write(document, "two")
    shutil.rmtree(document.state_dir())
    backup.restore(document, tmp_path / "backup")
    assert notes(document) == ["one"]
    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0


def test_it_never_overwrites(document: ConfigDocument, tmp_path: Path) -> None:
    backup.create(document, tmp_path / "backup")
    with pytest.raises(BackupError, match="exists already"):
        backup.create(document, tmp_path / "backup")
    with pytest.raises(BackupError, match="holds state already"):
        backup.restore(document, tmp_path / "backup")


def test_a_backup_that_fails_leaves_nothing(document: ConfigDocument, tmp_path: Path) -> None:
    (document.state_dir() / "notes" / "notes.db").write_bytes(b"no database" * 100)
    with pytest.raises(BackupError, match="cannot be made"):
        backup.create(document, tmp_path / "backup")
    assert not list(tmp_path.glob("backup*"))


def test_one_of_nothing_is_refused(tmp_path: Path) -> None:
    nobody = document_of({"state_dir": str(tmp_path / "nobody")}, tmp_path)
    with pytest.raises(BackupError, match=r"no service keeps anything in .*nobody: "):
        backup.create(nobody, tmp_path / "backup")
    assert not list(tmp_path.glob("backup*"))


def test_one_inside_of_what_it_holds_is_refused(document: ConfigDocument) -> None:
    inside = document.state_dir() / "notes" / "backups" / "today"
    with pytest.raises(BackupError, match="which is to be backed up"):
        backup.create(document, inside)
    assert not inside.parent.exists()
    assert backup.create(document, document.state_dir() / "backups").files


def test_a_file_is_no_backup(tmp_path: Path) -> None:
    (tmp_path / "backup").write_text("text")
    with pytest.raises(BackupError, match="is no backup"):
        backup.read(tmp_path / "backup")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "notes" / "notes.db").unlink(), "is damaged: notes/notes.db"),
        (lambda folder: (folder / "notes" / "notes.db").write_bytes(b"x"), "not as it was written"),
        (lambda folder: (folder / "more").write_bytes(b"x"), "more is not in its manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "is no backup"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot be read"),
        (lambda folder: alter(folder, format=99), "newer version"),
        (lambda folder: alter(folder, services=["songs"]), "songs, which is not installed"),
    ],
)
def test_a_damaged_one_is_refused_before_anything_is_written(document, tmp_path, damage, said) -> None:
    folder = tmp_path / "backup"
    backup.create(document, folder)
    damage(folder)
    shutil.rmtree(document.state_dir())
    with pytest.raises(BackupError, match=said):
        backup.restore(document, folder)
    assert not document.state_dir().exists()


def alter(folder: Path, **values: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_as_a_program(document: ConfigDocument, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--set", f"state_dir={document.state_dir()}", str(tmp_path / "backup")]
    assert backup.main(["create", *words]) == 0
    assert "not in it: drawings: on paper" in capsys.readouterr().out
    assert backup.main(["restore", *words]) == 1
    assert "holds state already" in capsys.readouterr().err
    shutil.rmtree(document.state_dir())
    assert backup.main(["restore", *words]) == 0
    assert notes(document) == ["one"]


def test_files_with_holes_come_back_with_holes(document: ConfigDocument, tmp_path: Path) -> None:
    sparse = document.state_dir() / "notes" / "sparse"
    sparse.parent.mkdir(exist_ok=True)
    with sparse.open("wb") as file:
        file.seek(64 * 1024 * 1024)
        file.write(b"end")
    sparse.chmod(0o600)
    copy_folder(document.state_dir(), tmp_path / "copy")
    copied = tmp_path / "copy" / "notes" / "sparse"
    assert copied.stat().st_size == sparse.stat().st_size
    assert copied.stat().st_mode == sparse.stat().st_mode
    assert copied.stat().st_blocks == sparse.stat().st_blocks
    assert copied.read_bytes()[-3:] == b"end"
