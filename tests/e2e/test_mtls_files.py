"""The files of certificates: what of them is taken, and when it is said that they end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from sluice_cli.authority import Authority, certificate_file, key_file
from sluice_kit import telemetry
from sluice_kit.config import ConfigDocument, ConfigError
from sluice_kit.telemetry import table
from sluice_kit.telemetry.base import Reading, Telemetry
from sluice_kit.testing import make_service
from sluice_kit.tls import Bundle, Files, mesh_tls
from sluice_kit.tls_validity import validity_of

ENDING = "the service's own certificate ends soon, or has ended"


def paths(folder: Path) -> dict[str, Path]:
    gateway = certificate_file(folder, "gateway"), key_file(folder, "gateway")
    return {"certificate": gateway[0], "key": gateway[1], "ca": folder / "ca.pem"}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority.create(tmp_path, "sluice.local")
    authority.issue("gateway", timedelta(days=1))
    return authority


@pytest.mark.parametrize("years", [1, 30, 120], ids=["two digits of a year", "four digits", "another century"])
def test_until_when_a_certificate_holds(authority: Authority, years: int) -> None:
    path = authority.issue("gateway", timedelta(days=365 * years)).path
    known = x509.load_pem_x509_certificate(path.read_bytes())
    found = validity_of("a comment\n" + path.read_text() + (authority.folder / "ca.pem").read_text())
    assert found == (known.not_valid_before_utc.timestamp(), known.not_valid_after_utc.timestamp())


@pytest.mark.parametrize("cut", [2, 5, 20, 60, 120], ids=str)
def test_what_is_no_certificate(authority: Authority, cut: int) -> None:
    lines = certificate_file(authority.folder, "gateway").read_text().splitlines()
    broken = "\n".join([lines[0], "".join(lines[1:-1])[: cut * 4], lines[-1]])
    with pytest.raises(ValueError, match="certificate"):
        validity_of(broken)
    with pytest.raises(ValueError, match="PEM form"):
        validity_of("nonsense")
    with pytest.raises(ValueError, match="can be read"):
        validity_of("-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----")


def refusal(authority: Authority) -> str:
    tls = {name: str(path) for name, path in paths(authority.folder).items()}
    with pytest.raises(ConfigError) as caught:
        mesh_tls(ConfigDocument(None, {"tls": tls}))
    return str(caught.value)


def test_a_service_does_not_start_with_files_that_do_not_fit(authority: Authority) -> None:
    key = key_file(authority.folder, "gateway")
    good = key.read_bytes()
    key.write_bytes((authority.folder / "ca.key").read_bytes())
    assert refusal(authority) == f"configuration: tls.key: {key}: is not the key of the certificate"
    # An encrypted key would else be asked for on the terminal.
    locked = serialization.BestAvailableEncryption(b"secret")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(serialization.load_pem_private_key(good, None).private_bytes(*form, locked))
    assert refusal(authority) == f"configuration: tls.key: {key}: cannot be used"
    key.write_bytes(good)
    (authority.folder / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "tls.ca: " in refusal(authority)


def test_an_integration_may_not_have_the_name_of_another_service(authority: Authority) -> None:
    tls = {name: str(path) for name, path in paths(authority.folder).items()}
    settings = {"tls": tls, "providers": {"gateway": {"adapter": "scripted"}}}
    with pytest.raises(ConfigError, match=r"providers\.gateway: with `tls`, this name is another service's"):
        make_service("providers", ConfigDocument(None, settings), integration="gateway")


def test_files_that_change_while_they_are_read_are_read_again(authority: Authority) -> None:
    class Slow(Files):
        """Another pair is written right after this one was read."""

        busy = False

        def _read(self, generation: int) -> Bundle:
            bundle = super()._read(generation)
            if self.busy:
                authority.issue("gateway", timedelta(days=1))
                self.busy = False
            return bundle

    files = Slow(paths(authority.folder), 1e-9)
    files.busy = True
    authority.issue("gateway", timedelta(days=1))
    assert files.current().generation == 1
    bundle = files.current()
    assert bundle.generation == 2
    assert bundle.certificate == certificate_file(authority.folder, "gateway").read_bytes()
    assert files.current() is bundle


def test_a_certificate_that_nobody_renews_is_told_of_once(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> int:
        return [record.message for record in caplog.records].count(ENDING)

    caplog.set_level(logging.WARNING)
    files = Files(paths(authority.folder), 1e-9)
    assert told() == 0
    authority.issue("gateway", timedelta(days=10), begins=datetime.now(UTC) - timedelta(days=9.5))
    for _ in range(3):
        files.current()
    assert told() == 1
    authority.issue("gateway", timedelta(days=10))
    files.current()
    assert told() == 1
    authority.issue("gateway", timedelta(days=1), begins=datetime.now(UTC) - timedelta(days=2))
    Files(paths(authority.folder), 10)
    assert told() == 2


class Gauges(Telemetry):
    """Keeps what it is to read."""

    def __init__(self) -> None:
        self.read: dict[table.Metric, Callable[[], Reading]] = {}

    def watch(self, metric: table.Metric, read: Callable[[], Reading]) -> None:
        self.read[metric] = read


def test_how_much_is_left_of_a_certificate_can_be_seen(authority: Authority) -> None:
    gauges = Gauges()
    before = telemetry.switch(gauges)
    try:
        files = Files(paths(authority.folder), 1)
    finally:
        telemetry.switch(before)
    name = str(certificate_file(authority.folder, "gateway"))
    validity = files.current().validity
    assert gauges.read[table.CERTIFICATE_START]() == [((name,), validity.begins)]
    assert gauges.read[table.CERTIFICATE_EXPIRY]() == [((name,), validity.ends)]
