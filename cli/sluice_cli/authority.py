"""A development CA in a folder: its own certificate, and one for each service.

    ca.pem  ca.key              the CA; only `ca.pem` goes to the services
    SERVICE.pem  SERVICE.key    a service's own: its SPIFFE id, its DNS name inside the mesh, localhost

Keys lie unencrypted in files that their owner alone can read: enough for one machine and for trying things out. In
production something that guards its key issues the same certificates.
"""

import contextlib
import datetime
import ipaddress
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sluice_kit.tls import Trust

CA_FILE: Final = "ca.pem"
CA_KEY_FILE: Final = "ca.key"
CA_DAYS: Final = 3650
_SKEW: Final = datetime.timedelta(minutes=5)
"""Certificates begin a little earlier than now, for clocks that are behind."""


class AuthorityError(Exception):
    """The folder cannot be used. The message says what is wrong with which file."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says."""

    path: Path
    identity: str
    """Its SPIFFE id; empty if it has none."""
    names: tuple[str, ...]
    """DNS names and addresses."""
    begins: datetime.datetime
    ends: datetime.datetime

    def left(self) -> float:
        """Returns the share of its life that is left, from 1 to 0 and below."""
        return (self.ends - _now()) / (self.ends - self.begins)


class Authority:
    """The CA of a folder, with its key."""

    def __init__(self, folder: Path, trust: Trust, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey):
        self.folder = folder
        self.trust = trust
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(
        cls, folder: Path, trust_domain: str, namespace: str | None = None, *, force: bool = False
    ) -> "Authority":
        """Makes a CA. Raises AuthorityError if the folder has one, unless `force`, and ValueError for a bad name."""
        trust = Trust(trust_domain, namespace)
        if not force and ((folder / CA_FILE).exists() or (folder / CA_KEY_FILE).exists()):
            raise AuthorityError(f"{folder} has a CA already: `sluice certs renew` makes certificates from it")
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, f"Sluice development CA of {trust_domain}")]
        if namespace is not None:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, namespace))
        name = x509.Name(attributes)
        identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            _builder(name, name, key, datetime.timedelta(days=CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(identity, critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        with _told(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(folder / CA_KEY_FILE, _key_pem(key))
        _write(folder / CA_FILE, _pem(certificate))
        return cls(folder, trust, certificate, key)

    @classmethod
    def open(cls, folder: Path) -> "Authority":
        """Returns the CA of a folder. Raises AuthorityError."""
        certificate = _read(folder / CA_FILE)
        path = folder / CA_KEY_FILE
        with _told(path):
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise AuthorityError(f"{path} is not the key of {folder / CA_FILE}")
        units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        namespace = str(units[0].value) if units else None
        try:
            trust = Trust(_identity(certificate).removeprefix("spiffe://"), namespace)
            return cls(folder, trust, certificate, key)
        except ValueError:
            raise AuthorityError(f"{folder / CA_FILE} was not made by `sluice certs new`") from None

    def issue(self, service: str, life: datetime.timedelta, *, begins: datetime.datetime | None = None) -> Certificate:
        """Makes a key and a certificate for a service, in place of those it has. `begins`: now.

        Raises AuthorityError, and ValueError for a name that cannot stand in a SPIFFE id.
        """
        check_service(service)
        identity = self.trust.id_of(service)
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(identity),
            *(x509.DNSName(name) for name in (self.trust.dns_name(service), service, "localhost")),
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")),
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(subject, self._certificate.subject, key, life, begins)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(issuer_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        # Services take the pair once both fit, so in between they keep the one before.
        _write(key_file(self.folder, service), _key_pem(key))
        path = certificate_file(self.folder, service)
        _write(path, _pem(certificate))
        return _described(path, certificate)

    def ensure(self, services: Iterable[str], life: datetime.timedelta) -> list[Certificate]:
        """Issues what is missing, unusable, not ours, or has less than half of its life left. Returns what it issued."""
        return [self.issue(service, life) for service in services if not self._good(service)]

    def services(self) -> list[str]:
        """Returns the services that have a certificate in the folder."""
        return sorted(path.stem for path in self.folder.glob("*.pem") if path.name != CA_FILE)

    def _good(self, service: str) -> bool:
        path = certificate_file(self.folder, service)
        try:
            certificate = _read(path)
            certificate.verify_directly_issued_by(self._certificate)
        except Exception:  # noqa: BLE001 - whatever is wrong with the file, a new one is right
            return False
        described = _described(path, certificate)
        ours = described.identity == self.trust.id_of(service) and key_file(self.folder, service).exists()
        return ours and described.left() > 0.5


def check_service(service: str) -> None:
    """Raises ValueError if no certificate can be made for a service of this name."""
    trust = Trust("any")
    if trust.service_of([trust.id_of(service).encode()]) != service or service == CA_FILE.removesuffix(".pem"):
        raise ValueError(f"'{service}' cannot be the name of a service that has a certificate")


def certificate_file(folder: Path, service: str) -> Path:
    """Returns where a service's certificate lies."""
    return folder / f"{service}.pem"


def key_file(folder: Path, service: str) -> Path:
    """Returns where a service's private key lies."""
    return folder / f"{service}.key"


def read_folder(folder: Path) -> list[Certificate]:
    """Returns the certificates of a folder, the CA's first. Raises AuthorityError."""
    paths = sorted(folder.glob("*.pem"), key=lambda path: (path.name != CA_FILE, path.name))
    if not paths:
        raise AuthorityError(f"{folder} holds no certificates")
    return [_described(path, _read(path)) for path in paths]


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    life: datetime.timedelta,
    begins: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    now = begins or _now()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _described(path: Path, certificate: x509.Certificate) -> Certificate:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return Certificate(
        path,
        _identity(certificate),
        (*names.get_values_for_type(x509.DNSName), *addresses),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )


def _identity(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0] if len(uris) == 1 else ""


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AuthorityError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError):
        # TypeError: the key is encrypted.
        raise AuthorityError(f"{path} cannot be read as PEM") from None


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _read(path: Path) -> x509.Certificate:
    with _told(path):
        return x509.load_pem_x509_certificate(path.read_bytes())


def _write(path: Path, data: bytes) -> None:
    """Puts a file in place at once, readable for its owner alone."""
    with _told(path):
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
