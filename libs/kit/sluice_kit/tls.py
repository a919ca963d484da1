"""Mutual TLS between the services, and TLS at the public door: certificates from files, taken anew when they change.

A service is who its certificate's SPIFFE id says. `MeshTls` holds a process's own certificate for both directions: its
listeners inside the mesh demand one of every peer, and its channels show it and accept only the service they were
opened for. grpc compares names of hosts only, so a channel asks for the DNS name `SERVICE.TRUST_DOMAIN`, which stands
in the certificate beside the SPIFFE id, whatever the address.

Unix sockets stay as they are: who may open them is decided by the file system.
"""

import contextlib
import logging
import re
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
import msgspec

from sluice_kit.config import ConfigDocument, TlsConfig
from sluice_kit.telemetry import current, table
from sluice_kit.tls_validity import Validity, validity_of

log = logging.getLogger(__name__)

_WARN_SHARE: Final = 0.1
"""How much of a certificate's life may be left before somebody has to know."""
_PART: Final = re.compile(r"[A-Za-z0-9_.-]+")
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9_.-]+")


class PublicTlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TLS at the public door: section `gateway.tls`."""

    certificate: str
    """File of the door's certificate (PEM, with what lies between it and the CA), relative to the configuration file.
    It carries the names that clients dial."""
    key: str
    """File of its private key (PEM, not encrypted)."""
    client_ca: str | None = None
    """File of CAs (PEM). Where set, clients need a certificate of one of them, besides what `auth` asks for."""
    reload_seconds: float = 10.0
    """How often the files are looked at."""


class UnusableFileError(Exception):
    """A certificate, key or CA cannot be used. The message says which file and why."""

    def __init__(self, role: str, message: str) -> None:
        super().__init__(message)
        self.role = role
        """Its setting: `certificate`, `key` or `ca`."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What the files held when they were last read whole. PEM, and secret as far as `key` goes."""

    generation: int
    certificate: bytes
    key: bytes
    ca: bytes | None
    validity: Validity


class Files:
    """Certificate, key and CAs, read anew when the files change. May be used from any thread."""

    def __init__(self, paths: Mapping[str, Path], reload_seconds: float) -> None:
        """`paths` are those of `certificate`, `key` and, where peers are checked, `ca`. Raises UnusableFileError."""
        self._paths = paths
        self._every = reload_seconds
        self._lock = threading.Lock()
        self._signature = self._sign()
        self._failed: tuple[object, int] = (None, 0)
        self._bundle = self._read(1)
        self._due = time.monotonic() + reload_seconds
        self._warned: Bundle | None = None
        self._warn_if_ending()
        name = str(paths["certificate"])
        current().watch(table.CERTIFICATE_EXPIRY, lambda: [((name,), self.current().validity.ends)])
        current().watch(table.CERTIFICATE_START, lambda: [((name,), self.current().validity.begins)])

    def current(self) -> Bundle:
        """Returns what holds now. Files that cannot be used, e.g. because one of a pair is not written yet, change nothing."""
        if time.monotonic() >= self._due:
            with self._lock:
                if time.monotonic() >= self._due:
                    self._look()
                    self._warn_if_ending()
                    self._due = time.monotonic() + self._every
        return self._bundle

    def _look(self) -> None:
        signature: object = None
        try:
            signature = self._sign()
            if signature == self._signature:
                self._failed = (None, 0)
                return
            bundle = self._read(self._bundle.generation + 1)
            if self._sign() != signature:
                return  # being written just now
        except UnusableFileError as error:
            failed, times = self._failed
            times = times + 1 if failed == signature else 1
            self._failed = (signature, times)
            # Seen once it may be half written; seen twice, somebody has to know.
            if times == 2:
                log.warning("changed certificate files cannot be used, the old ones hold", extra={"detail": str(error)})
            return
        self._bundle, self._signature, self._failed = bundle, signature, (None, 0)
        log.info("certificate files changed, new connections use them", extra={"file": str(self._paths["certificate"])})

    def _warn_if_ending(self) -> None:
        """Says once of each certificate that nobody renewed it in time. Peers only say that they refuse it."""
        begins, ends = self._bundle.validity
        if self._warned is self._bundle or time.time() < ends - (ends - begins) * _WARN_SHARE:
            return
        self._warned = self._bundle
        when = datetime.fromtimestamp(ends, UTC).isoformat()
        log.warning(
            "the service's own certificate ends soon, or has ended",
            extra={"file": str(self._paths["certificate"]), "ends": when},
        )

    def _sign(self) -> tuple[tuple[int, int, int], ...]:
        signs = []
        for role, path in self._paths.items():
            with _told(role, path):
                stat = path.stat()
                signs.append((stat.st_mtime_ns, stat.st_ino, stat.st_size))
        return tuple(signs)

    def _read(self, generation: int) -> Bundle:
        pems: dict[str, bytes] = {}
        holds: dict[str, Validity] = {}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for role, path in self._paths.items():
            with _told(role, path):
                pems[role] = path.read_bytes()
                if role != "key":
                    try:
                        holds[role] = validity_of(pems[role].decode("ascii", "replace"))
                    except ValueError as error:
                        raise UnusableFileError(role, f"{path}: {error}") from None
        if "ca" in pems:
            with _told("ca", self._paths["ca"]):
                context.load_verify_locations(self._paths["ca"])
        with _told("key", self._paths["key"]):
            # Without an answer here a key that is encrypted would make OpenSSL ask on the terminal.
            context.load_cert_chain(self._paths["certificate"], self._paths["key"], password=lambda: "")
        return Bundle(generation, pems["certificate"], pems["key"], pems.get("ca"), holds["certificate"])


@contextlib.contextmanager
def _told(role: str, path: Path) -> Any:
    try:
        yield
    except ssl.SSLError as error:
        what = "is not the key of the certificate" if error.reason == "KEY_VALUES_MISMATCH" else "cannot be used"
        raise UnusableFileError(role, f"{path}: {what}") from None
    except OSError as error:
        raise UnusableFileError(role, f"{path}: {error.strerror or error}") from None


class Trust:
    """Whose SPIFFE ids are believed, and which service each names."""

    def __init__(self, trust_domain: str, namespace: str | None = None) -> None:
        """Raises ValueError, naming the setting, for names that cannot stand in a SPIFFE id."""
        if not _TRUST_DOMAIN.fullmatch(trust_domain):
            raise ValueError("trust_domain: expected lower-case letters, digits, dots, dashes and underscores")
        if namespace is not None and not _segment(namespace):
            raise ValueError("namespace: expected letters, digits, dots, dashes and underscores")
        self.trust_domain = trust_domain
        place = f"ns/{namespace}/sa/" if namespace is not None else ""
        self._prefix = f"spiffe://{trust_domain}/{place}"

    def id_of(self, service: str) -> str:
        """Returns the SPIFFE id of a service."""
        return self._prefix + service

    def dns_name(self, service: str) -> str:
        """Returns the DNS name that a service's certificate carries beside its SPIFFE id."""
        return f"{service}.{self.trust_domain}"

    def service_of(self, uris: Sequence[bytes]) -> str | None:
        """Returns the service that a certificate with these URIs names; None unless there is one, of this trust domain."""
        if len(uris) != 1:
            return None
        uri = uris[0].decode("ascii", "replace")
        if not uri.startswith(self._prefix):
            return None
        service = uri[len(self._prefix) :]
        return service if _segment(service) else None


def _segment(text: str) -> bool:
    return _PART.fullmatch(text) is not None and text not in (".", "..")


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """What a listener needs for TLS."""

    credentials: grpc.ServerCredentials
    trust: Trust | None
    """Whose services may call; None: peers are not services."""


class MeshTls:
    """A process's own certificate, for what it serves and what it calls inside the mesh."""

    def __init__(self, files: Files, trust: Trust) -> None:
        self._files = files
        self.trust = trust

    def listener(self) -> ListenerTls:
        """Returns what a listener inside the mesh needs: a certificate is demanded of every peer."""
        return ListenerTls(_server_credentials(self._files, demand=True), self.trust)

    @property
    def generation(self) -> int:
        """Which version of the files holds now."""
        return self._files.current().generation

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Returns what a channel opened now needs."""
        bundle = self._files.current()
        return grpc.ssl_channel_credentials(bundle.ca, bundle.key, bundle.certificate)


def _server_credentials(files: Files, *, demand: bool) -> grpc.ServerCredentials:
    served = files.current()

    def changed() -> "grpc.ServerCertificateConfiguration | None":
        """grpc asks before each handshake, in a thread of its own."""
        nonlocal served
        bundle = files.current()
        if bundle is served:
            return None
        served = bundle
        return _configuration(bundle)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(served),
        changed,  # type: ignore[arg-type]  # the stub leaves out that None says "unchanged"
        require_client_authentication=demand,
    )


def _configuration(bundle: Bundle) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(bundle.key, bundle.certificate)], bundle.ca)


def mesh_tls(document: ConfigDocument) -> MeshTls | None:
    """Returns the process's TLS inside the mesh; None where section `tls` sets none. Raises ConfigError."""
    config = document.section("tls", TlsConfig)
    settings = {"certificate": config.certificate, "key": config.key, "ca": config.ca}
    if not any(settings.values()):
        return None
    for name, value in settings.items():
        if not value:
            raise document.error(f"tls.{name}", "required beside the other files of `tls`")
    try:
        trust = Trust(config.trust_domain, config.namespace)
    except ValueError as error:
        name, _, what = str(error).partition(": ")
        raise document.error(f"tls.{name}", what) from None
    return MeshTls(_files(document, "tls", settings, config.reload_seconds), trust)


def public_tls(document: ConfigDocument, config: PublicTlsConfig | None) -> ListenerTls | None:
    """Returns what the public door needs for TLS; None where it has none. Raises ConfigError."""
    if config is None:
        return None
    settings = {"certificate": config.certificate, "key": config.key}
    if config.client_ca is not None:
        settings["ca"] = config.client_ca
    files = _files(document, "gateway.tls", settings, config.reload_seconds)
    return ListenerTls(_server_credentials(files, demand=config.client_ca is not None), None)


def _files(document: ConfigDocument, section: str, settings: Mapping[str, str | None], every: float) -> Files:
    paths = {name: document.resolve(value) for name, value in settings.items() if value}
    if every <= 0:
        raise document.error(f"{section}.reload_seconds", "expected more than 0")
    try:
        return Files(paths, every)
    except UnusableFileError as error:
        role = "client_ca" if error.role == "ca" and section != "tls" else error.role
        raise document.error(f"{section}.{role}", str(error)) from None
