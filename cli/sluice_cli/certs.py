"""`sluice certs`."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sluice_cli import mesh, output
from sluice_cli.options import EXIT_FAILURE, EXIT_USAGE, Config, Json

if TYPE_CHECKING:
    from sluice_cli.authority import Certificate

app = typer.Typer(no_args_is_help=True, help="Make and renew certificates for mutual TLS between services.")

DAYS: Final = 7
_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the CA and its certificates.")]
_Services = Annotated[
    str | None,
    typer.Option(
        "--services",
        metavar="NAMES",
        help="Whom to make one for, separated by commas. An adapter has the name of its integration.",
        show_default=False,
    ),
]
_Days = Annotated[int, typer.Option("--days", min=1, max=825, help="How long the services' certificates hold.")]


@app.callback()
def certs() -> None:
    """Make and renew certificates for mutual TLS between services, from a development CA."""


@app.command("new")
def new(
    folder: _Folder,
    trust_domain: Annotated[
        str, typer.Option("--trust-domain", metavar="NAME", help="The mesh's name in SPIFFE ids.")
    ] = "sluice.local",
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace", metavar="NAME", help="Make ids of the form …/ns/NAME/sa/SERVICE.", show_default=False
        ),
    ] = None,
    services: _Services = None,
    days: _Days = DAYS,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder's CA, if it has one.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Make a development CA and a certificate for every service.

    By default for those of the configuration. The keys lie unencrypted in files that you alone can read, so this is for
    one machine and for trying things out. The folder's CA is replaced with [bold]--force[/] alone.
    """
    from datetime import timedelta

    from sluice_cli.authority import Authority, check_service

    with _told():
        names = _names(services) or mesh_services(config)
        for name in names:
            check_service(name)
        authority = Authority.create(folder, trust_domain, namespace, force=force)
        _show([authority.issue(name, timedelta(days=days)) for name in names], as_json)
    if not as_json:
        output.say(f"\nEach service takes its own two files and {folder}/ca.pem; see `tls` in the configuration.")


@app.command("renew")
def renew(folder: _Folder, services: _Services = None, days: _Days = DAYS, as_json: Json = False) -> None:
    """Make new certificates from the folder's CA.

    For all that are there, or for those that [bold]--services[/] names, new ones included. Running services take them
    without a restart.
    """
    from datetime import timedelta

    from sluice_cli.authority import Authority

    with _told():
        authority = Authority.open(folder)
        names = _names(services) or authority.services()
        _show([authority.issue(name, timedelta(days=days)) for name in names], as_json)


@app.command("show")
def show(folder: _Folder, as_json: Json = False) -> None:
    """Show whose certificates are there, and until when they hold."""
    from sluice_cli.authority import read_folder

    with _told():
        _show(read_folder(folder), as_json)


def mesh_services(config: Path | None) -> tuple[str, ...]:
    """Returns the services that the configuration's mesh has. Raises ConfigError."""
    from sluice_cli.supervisor.plan import DEFAULT_INTEGRATIONS
    from sluice_kit import peers
    from sluice_kit.config import load

    integrations = load(mesh.config_path(config)).entries("providers") or DEFAULT_INTEGRATIONS
    return (peers.GATEWAY, peers.RETRIEVAL, peers.SUPERVISOR, *integrations)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (name.strip() for name in (text or "").split(",")))))


def _show(certificates: "Sequence[Certificate]", as_json: bool) -> None:
    if as_json:
        for one in certificates:
            output.emit(
                {
                    "file": str(one.path),
                    "spiffe_id": one.identity,
                    "names": list(one.names),
                    "ends": one.ends.isoformat(),
                    "expired": one.left() <= 0,
                }
            )
        return
    rows = [(one.path.name, one.identity or "none", _ends(one)) for one in certificates]
    output.table(("file", "spiffe id", "ends"), rows, empty="no certificates")


def _ends(one: "Certificate") -> str:
    said = one.ends.strftime("%Y-%m-%d %H:%M UTC")
    return f"{said}, EXPIRED" if one.left() <= 0 else said


@contextlib.contextmanager
def _told() -> Iterator[None]:
    from sluice_cli.authority import AuthorityError
    from sluice_kit.config import ConfigError

    try:
        yield
    except ValueError as error:
        output.say(f"sluice: {error}")
        raise typer.Exit(EXIT_USAGE) from None
    except (AuthorityError, ConfigError) as error:
        output.say(f"sluice: {error}")
        raise typer.Exit(EXIT_FAILURE) from None
