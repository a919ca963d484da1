"""`sluice backup` and `sluice restore`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli import mesh, output
from sluice_cli.options import EXIT_FAILURE, Config, Json

if TYPE_CHECKING:
    from sluice_kit.backup import Manifest
    from sluice_kit.config import ConfigDocument

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override one setting. May be repeated.")
]


def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder for the backup.")],
    config: Config = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Copy what the mesh keeps on this machine, while it runs.

    Corpora with their vectors and texts, conversations, the ledger, and what you signed in with: the folder is for your
    eyes alone. What is kept on servers (Postgres, Qdrant, Redis) is named, and is backed up there.

    [bold]Example[/]

      sluice backup /backups/sluice-$(date +%F)
    """
    from sluice_kit.backup import BackupError, create

    document = _document(config, overrides)
    try:
        manifest = create(document, folder)
    except BackupError as error:
        output.say(f"sluice: {error}")
        raise typer.Exit(EXIT_FAILURE) from None
    _say(manifest, f"backed up to {folder}", as_json=as_json)


def restore(
    folder: Annotated[Path, typer.Argument(help="The folder that `sluice backup` made.")],
    config: Config = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Put a backup back in place. The mesh must not run, and must have no state of its own yet.

    The backup is checked first, file by file. State that is there is never overwritten: move it away yourself.
    """
    from sluice_cli.supervisor.folders import AlreadyRunning, StateLock
    from sluice_kit.backup import BackupError
    from sluice_kit.backup import restore as put_back

    document = _document(config, overrides)
    try:
        lock = StateLock(mesh.mesh_file(document).parent)
    except AlreadyRunning as error:
        output.say(f"sluice: {error}\n  → stop it first")
        raise typer.Exit(EXIT_FAILURE) from None
    try:
        manifest = put_back(document, folder)
    except BackupError as error:
        output.say(f"sluice: {error}")
        raise typer.Exit(EXIT_FAILURE) from None
    finally:
        lock.release()
    _say(manifest, f"restored {folder}", as_json=as_json)


def _document(config: Path | None, overrides: list[str] | None) -> "ConfigDocument":
    from sluice_kit.config import ConfigError, load

    try:
        return load(mesh.config_path(config), tuple(overrides or ()))
    except ConfigError as error:
        output.say(f"sluice: {error}")
        raise typer.Exit(EXIT_FAILURE) from None


def _say(manifest: "Manifest", done: str, *, as_json: bool) -> None:
    if as_json:
        output.emit(
            {
                "services": manifest.services,
                "files": len(manifest.files),
                "sizeBytes": manifest.size_bytes,
                "createTime": manifest.create_time.isoformat(),
                "elsewhere": manifest.elsewhere,
            }
        )
        return
    megabytes = manifest.size_bytes / 1e6
    print(f"{done}: {', '.join(manifest.services) or 'no state'}; {len(manifest.files)} files, {megabytes:.1f} MB")
    for what in manifest.elsewhere:
        output.say(f"not in it: {what}")
