"""How a listener finds out who calls.

The public listener believes keys alone (or, with authentication off, takes everyone for the local user); a listener
inside the mesh believes the identity that the gateway established, and only from peers that nobody else can be: from
processes of this machine, or, with mutual TLS, from services that may speak for others.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import yaml
from google.protobuf.message import DecodeError

from sluice.auth.v1.identity_pb2 import Identity, Role
from sluice_kit import identity as identities
from sluice_kit.config import AuthConfig, ConfigDocument, ConfigError
from sluice_kit.errors import AuthenticationError
from sluice_kit.peers import DELEGATES
from sluice_kit.tls import MeshTls

Metadata = Iterable[tuple[str, str | bytes]]
AUTHORIZATION_KEY = "authorization"
_BEARER = "bearer "
_SPIFFE = "spiffe://"


class Authenticator(Protocol):
    """Finds out who calls."""

    def authenticate(self, metadata: Metadata, peer: str) -> Identity:
        """Returns the caller. Raises AuthenticationError.

        `peer` is grpc's name of the other end, or the SPIFFE id of a service that showed its certificate.
        """


class LocalAuthenticator:
    """Everyone is the local user: for listeners that only this machine reaches, or where it was asked for."""

    def authenticate(self, metadata: Metadata, peer: str) -> Identity:
        return identities.LOCAL_IDENTITY


class KeyAuthenticator:
    """Static keys: `authorization: Bearer KEY`."""

    def __init__(self, by_digest: dict[bytes, Identity]) -> None:
        self._by_digest = by_digest

    def authenticate(self, metadata: Metadata, peer: str) -> Identity:
        for key, value in metadata:
            if key == AUTHORIZATION_KEY and isinstance(value, str) and value[: len(_BEARER)].lower() == _BEARER:
                # Keys are random and long, so one round of SHA-256 is enough, and the look-up leaks nothing of use.
                digest = hashlib.sha256(value[len(_BEARER) :].strip().encode()).digest()
                found = self._by_digest.get(digest)
                if found is None:
                    raise AuthenticationError("this key is not known")
                return found
        raise AuthenticationError("no key: send the metadata `authorization: Bearer KEY`")


class DelegatedAuthenticator:
    """Inside the mesh: the identity that came as metadata, from peers on this machine or with certain certificates."""

    def __init__(
        self, *, default: Identity | None, trust_any_peer: bool, delegates: frozenset[str] = frozenset()
    ) -> None:
        """`delegates` are the SPIFFE ids that may speak for others. Who shows a certificate is judged by it alone."""
        self._default = default
        self._trust_any_peer = trust_any_peer
        self._delegates = delegates

    def authenticate(self, metadata: Metadata, peer: str) -> Identity:
        for key, value in metadata:
            if key == identities.IDENTITY_KEY and isinstance(value, bytes):
                if not self._may_delegate(peer):
                    raise AuthenticationError("this peer may not speak for others")
                try:
                    found = identities.decode(value)
                except DecodeError:
                    raise AuthenticationError("the identity cannot be read") from None
                if not found.tenant:
                    raise AuthenticationError("the identity names no tenant")
                return found
        if self._default is None:
            raise AuthenticationError("no identity: services inside the mesh are called through the gateway")
        return self._default

    def _may_delegate(self, peer: str) -> bool:
        if peer.startswith(_SPIFFE):
            return peer in self._delegates
        return self._trust_any_peer or is_local_peer(peer)


def is_local_peer(peer: str) -> bool:
    """Tells whether grpc's name of a peer is a process on this machine."""
    return peer.startswith(("unix:", "ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D"))


class _KeyRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    sha256: str
    tenant: str
    subject: str = ""
    roles: tuple[Literal["user", "editor", "admin"], ...] = ("user",)


class _KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[_KeyRow, ...]


def read_keys(path: Path) -> KeyAuthenticator:
    """Reads a file of static keys.

    The file is YAML: `keys:` with rows of `id`, `sha256` (lower-case hex of the key), `tenant`, and optionally
    `subject` and `roles` (user, editor, admin). It never holds a key itself. Raises ConfigError.
    """
    try:
        rows = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), _KeysFile).keys
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    by_digest: dict[bytes, Identity] = {}
    for row in rows:
        try:
            digest = bytes.fromhex(row.sha256)
        except ValueError:
            digest = b""
        if len(digest) != 32 or not row.tenant:
            raise ConfigError(f"{path}: key {row.id}: needs a tenant, and sha256 as 64 hexadecimal digits")
        if digest in by_digest:
            raise ConfigError(f"{path}: key {row.id}: the same key twice")
        roles = [Role.Value(f"ROLE_{role.upper()}") for role in row.roles]
        by_digest[digest] = Identity(tenant=row.tenant, subject=row.subject, roles=roles, key_id=row.id)
    return KeyAuthenticator(by_digest)


def public_authenticator(document: ConfigDocument) -> Authenticator:
    """Returns what the gateway's public listener uses. Raises ConfigError."""
    config = document.section("auth", AuthConfig)
    if config.mode != "keys":
        return LocalAuthenticator()
    if config.keys_file is None:
        raise document.error("auth.keys_file", "required with auth.mode: keys")
    return read_keys(document.resolve(config.keys_file))


def internal_authenticator(document: ConfigDocument, tls: MeshTls | None = None) -> Authenticator:
    """Returns what listeners inside the mesh use; `tls` is the process's mutual TLS, if there is. Raises ConfigError."""
    config = document.section("auth", AuthConfig)
    # With keys, a call without identity did not pass the door.
    default = None if config.mode == "keys" else identities.LOCAL_IDENTITY
    delegates = frozenset(map(tls.trust.id_of, DELEGATES)) if tls is not None else frozenset()
    return DelegatedAuthenticator(default=default, trust_any_peer=config.mode == "insecure", delegates=delegates)
