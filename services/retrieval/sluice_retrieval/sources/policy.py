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

_REVISION: Final = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_./+\-]*$")
_HOST: Final = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
_HTTPS_PORT: Final = 443


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
    folder: Path | None = None


class SourcePolicy:
    """The operator's rules. `roots` are real paths; hosts are lower case, `*` among the allowed is any."""

    def __init__(
        self,
        roots: Sequence[Path],
        allowed_hosts: Sequence[str],
        private_hosts: Sequence[str],
        ca_file: Path | None = None,
    ) -> None:
        self._roots = tuple(root.resolve() for root in roots)
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)
        self._private_hosts = frozenset(host.lower() for host in private_hosts)
        self._ca_file = str(ca_file) if ca_file is not None else None

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders below which sources may lie."""
        return self._roots

    def check(self, source: pb.Source) -> AllowedFolder | AllowedRepository:
        """Returns where to read, or raises: INVALID_REQUEST, SOURCE_NOT_ALLOWED, SOURCE_UNREADABLE.

        Blocking: it looks at the disk, or asks for a host's addresses.
        """
        if source.WhichOneof("kind") == "local":
            return AllowedFolder(self._folder(source.local.path, "source.local.path"))
        return self._repository(source.git)

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

    def _repository(self, git: pb.GitSource) -> AllowedRepository:
        revision = git.revision if git.HasField("revision") and git.revision else None
        if revision is not None and (not _REVISION.match(revision) or ".." in revision):
            raise invalid_field("source.git.revision", "not a branch, tag or commit id")
        if git.HasField("credential") and git.credential:
            raise make_error(
                ErrorReason.ERROR_REASON_UNSUPPORTED_OPTION,
                "stored credentials for repositories are not offered yet",
                metadata={"option": "source.git.credential"},
            )
        if git.url.startswith("/") or git.url.startswith("file://"):
            text = git.url if git.url.startswith("/") else unquote(git.url.removeprefix("file://"))
            folder = self._folder(text, "source.git.url")
            return AllowedRepository(folder.as_uri(), revision, folder=folder)
        return self._remote(git.url, revision)

    def _remote(self, url: str, revision: str | None) -> AllowedRepository:
        field = "source.git.url"
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port or _HTTPS_PORT
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
        return AllowedRepository(
            url, revision, host, port, _addresses(host, port, private=private), ca_file=self._ca_file
        )


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
