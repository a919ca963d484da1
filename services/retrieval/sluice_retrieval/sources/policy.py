"""Which sources the operator allows. Checked before a task is made, and again when it runs."""

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2 as pb
from sluice_kit.errors import SluiceError, make_error
from sluice_kit.rpc import invalid_field
from sluice_retrieval.sources.credentials import HTTPS_PORT, Credentials, kind_of
from sluice_retrieval.sources.git_local import LeadsElsewhere, check_repository
from sluice_retrieval.sources.login import Login

_REVISION: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_./+\-]*$")
_HOST: Final = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")


@dataclass(frozen=True, slots=True)
class AllowedFolder:
    """A local folder that may be read: its real path."""

    path: Path


@dataclass(frozen=True, slots=True)
class AllowedRepository:
    """A repository that may be fetched. Local ones have a `folder` and no host."""

    url: str
    revision: str | None
    host: str = ""
    port: int = 0
    addresses: tuple[str, ...] = ()
    """The host's addresses, which the fetch is held to."""
    ca_file: str | None = None
    """Certificates that the host is checked against. None: the system's."""
    login: Login | None = None
    """What the host is told when it asks who fetches."""
    folder: Path | None = None


class SourcePolicy:
    """The operator's rules. `roots` are real paths; hosts are lower case, `*` among the allowed is any."""

    def __init__(
        self,
        roots: Sequence[Path],
        allowed_hosts: Sequence[str],
        private_hosts: Sequence[str],
        ca_file: Path | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self._roots = tuple(root.resolve() for root in roots)
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self._private_hosts = frozenset(host.lower() for host in private_hosts)
        self._ca_file = str(ca_file) if ca_file is not None else None
        self._credentials = credentials if credentials is not None else Credentials({})

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders below which sources may lie."""
        return self._roots

    def check(self, source: pb.Source, tenant: str) -> AllowedFolder | AllowedRepository:
        """Returns where a tenant may read.

        Raises INVALID_REQUEST, SOURCE_NOT_ALLOWED, SOURCE_UNREADABLE, or INTEGRATION_MISCONFIGURED for a credential
        without its token. Blocking: it looks at the disk, or asks for a host's addresses.
        """
        if source.WhichOneof("kind") == "local":
            return AllowedFolder(self._folder(source.local.path, "source.local.path"))
        return self._repository(source.git, tenant)

    def _folder(self, text: str, field: str) -> Path:
        path = Path(text)
        if "\0" in text or not path.is_absolute():
            raise invalid_field(field, "expected an absolute path")
        try:
            real = path.resolve()
        except (OSError, RuntimeError):
            raise _unreadable("the folder cannot be read") from None
        if not any(real.is_relative_to(root) for root in self._roots):
            # The same for what exists and what does not, so that nobody can explore the disk.
            raise _not_allowed(
                "this folder does not lie below a root that the operator allows (retrieval.allowed_roots)",
                "allowed_roots",
            )
        if not real.is_dir():
            raise _unreadable("there is no such folder")
        return real

    def _repository(self, git: pb.GitSource, tenant: str) -> AllowedRepository:
        revision = git.revision if git.HasField("revision") and git.revision else None
        if revision is not None and (not _REVISION.match(revision) or ".." in revision):
            raise invalid_field("source.git.revision", "not a branch, tag or commit id")
        if not git.url.startswith(("/", "file://")):
            return self._remote(git, revision, tenant)
        if git.credential:
            raise invalid_field("source.git.credential", "only for an https address")
        text = git.url if git.url.startswith("/") else unquote(git.url.removeprefix("file://"))
        folder = self._folder(text, "source.git.url")
        try:
            check_repository(folder, self._roots)
        except LeadsElsewhere:
            raise _not_allowed(
                "a part of this repository does not lie below a root that the operator allows "
                "(retrieval.allowed_roots)",
                "allowed_roots",
            ) from None
        return AllowedRepository(folder.as_uri(), revision, folder=folder)

    def _remote(self, git: pb.GitSource, revision: str | None, tenant: str) -> AllowedRepository:
        url, field = git.url, "source.git.url"
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port or HTTPS_PORT
        except ValueError:
            raise invalid_field(field, "not an address") from None
        if not url.isascii() or not url.isprintable() or " " in url:
            raise invalid_field(field, "expected printable ASCII without spaces")
        if parts.scheme != "https":
            raise invalid_field(field, "expected an https address")
        if parts.username is not None or parts.password is not None:
            raise invalid_field(field, "never with a user or a password in it")
        if not _HOST.match(host) or parts.query or parts.fragment:
            raise invalid_field(field, "expected https://host/path")
        private = host in self._private_hosts
        if not private and host not in self._allowed_hosts and "*" not in self._allowed_hosts:
            raise _not_allowed(
                f"the operator does not allow repositories on {host} (retrieval.git.allowed_hosts)", "allowed_hosts"
            )
        kind = kind_of(host, git.host)
        login = self._credentials.login(git.credential, tenant, host, port, kind) if git.credential else None
        # The port is written out, so that git takes the address for the one that the login and the addresses are for.
        url = f"https://{host}:{port}{_path(parts.path, kind)}"
        addresses = _addresses(host, port, private=private)
        return AllowedRepository(url, revision, host, port, addresses, self._ca_file, login)


def _path(path: str, kind: "pb.GitHost.ValueType") -> str:
    """Returns the path to fetch from. GitLab redirects from one without the ending, and redirects are not followed."""
    path = path.rstrip("/")
    return f"{path}.git" if kind == pb.GitHost.GIT_HOST_GITLAB and not path.endswith(".git") else path


def _addresses(host: str, port: int, *, private: bool) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise _unreadable(f"the address of {host} cannot be found") from None
    addresses = tuple(dict.fromkeys(str(where[0]) for *_, where in found))
    for address in addresses:
        if not private and not ipaddress.ip_address(address.partition("%")[0]).is_global:
            raise _not_allowed(f"{host} has an address that is not public", "public_addresses")
    return addresses


def _not_allowed(message: str, rule: str) -> SluiceError:
    return make_error(ErrorReason.ERROR_REASON_SOURCE_NOT_ALLOWED, message, metadata={"rule": rule})


def _unreadable(message: str) -> SluiceError:
    return make_error(ErrorReason.ERROR_REASON_SOURCE_UNREADABLE, message)
