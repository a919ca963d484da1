"""Until when a certificate holds, read with the standard library alone: services need nothing else of a certificate."""

import ssl
from datetime import UTC, datetime
from typing import NamedTuple

_SEQUENCE, _INTEGER, _UTC_TIME, _TIME, _VERSION = 0x30, 0x02, 0x17, 0x18, 0xA0
_END = "-----END CERTIFICATE-----"


class Validity(NamedTuple):
    """From when until when, as seconds since 1970."""

    begins: float
    ends: float


def validity_of(pem: str) -> Validity:
    """Returns the validity of the first certificate of a PEM file. Raises ValueError for what is none."""
    start, end = pem.find("-----BEGIN CERTIFICATE-----"), pem.find(_END)
    if start < 0 or end < start:
        raise ValueError("holds no certificate in PEM form")
    try:
        der = ssl.PEM_cert_to_DER_cert(pem[start : end + len(_END)])
        # RFC 5280, 4.1: Certificate { TBSCertificate { [0] version, serialNumber, signature, issuer, validity, …
        _, certificate, _ = _element(der)
        _, body, _ = _element(certificate)
        tag, _, rest = _element(body)
        if tag == _VERSION:
            tag, _, rest = _element(rest)
        if tag != _INTEGER:
            raise ValueError
        for _ in ("signature", "issuer"):
            _, _, rest = _element(rest)
        tag, both, _ = _element(rest)
        first, second = _element(both), _element(_element(both)[2])
        if tag != _SEQUENCE:
            raise ValueError
        return Validity(_time(first[0], first[1]), _time(second[0], second[1]))
    except (ValueError, IndexError):
        raise ValueError("holds no certificate that can be read") from None


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Returns the first element of DER: its tag, its content, and what follows it."""
    tag, size, at = data[0], data[1], 2
    if size & 0x80:
        at += size & 0x7F
        size = int.from_bytes(data[2:at], "big")
    if at + size > len(data):
        raise ValueError
    return tag, data[at : at + size], data[at + size :]


def _time(tag: int, content: bytes) -> float:
    if tag not in (_UTC_TIME, _TIME):
        raise ValueError
    # RFC 5280, 4.1.2.5: always in UTC and with seconds; years from 2050 on have four digits.
    layout = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(content.decode("ascii"), layout).replace(tzinfo=UTC).timestamp()
