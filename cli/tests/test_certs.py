"""`sluice certs`, and the certificates of a local mesh."""

import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from sluice_cli.authority import Authority, certificate_file, key_file, read_folder
from sluice_cli.main import app
from sluice_cli.supervisor.certificates import Certificates
from sluice_kit.config import ConfigError

RUNNER = CliRunner()


def run(*arguments: str, code: int = 0) -> str:
    result = RUNNER.invoke(app, ["certs", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def rows(*arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(*arguments, "--json").splitlines()]


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_new_ca_and_its_certificates(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    made = rows("new", str(folder), "--services", "gateway, openai", "--days", "3")
    assert [row["spiffe_id"] for row in made] == ["spiffe://sluice.local/gateway", "spiffe://sluice.local/openai"]
    assert made[0]["names"][:3] == ["gateway.sluice.local", "gateway", "localhost"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ca, leaf = read(folder / "ca.pem"), read(folder / "openai.pem")
    leaf.verify_directly_issued_by(ca)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    usages = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert usages == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert timedelta(days=2.9) < leaf.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=3)


def test_a_ca_is_replaced_only_by_force(tmp_path: Path) -> None:
    folder = str(tmp_path)
    run("new", folder, "--services", "gateway")
    before = (tmp_path / "ca.pem").read_bytes()
    assert "has a CA already" in run("new", folder, "--services", "gateway", code=1)
    assert (tmp_path / "ca.pem").read_bytes() == before
    run("new", folder, "--services", "gateway", "--force")
    assert (tmp_path / "ca.pem").read_bytes() != before
    read(tmp_path / "gateway.pem").verify_directly_issued_by(read(tmp_path / "ca.pem"))


def test_renewing_takes_the_same_ca_and_may_add_services(tmp_path: Path) -> None:
    run("new", str(tmp_path), "--services", "gateway", "--trust-domain", "prod.example", "--namespace", "sluice")
    before = read(tmp_path / "gateway.pem")
    [renewed] = rows("renew", str(tmp_path))
    assert renewed["spiffe_id"] == "spiffe://prod.example/ns/sluice/sa/gateway"
    assert read(tmp_path / "gateway.pem").serial_number != before.serial_number
    rows("renew", str(tmp_path), "--services", "retrieval")
    shown = rows("show", str(tmp_path))
    assert [Path(row["file"]).name for row in shown] == ["ca.pem", "gateway.pem", "retrieval.pem"]
    assert shown[0]["spiffe_id"] == "spiffe://prod.example"
    for name in ("gateway", "retrieval"):
        read(tmp_path / f"{name}.pem").verify_directly_issued_by(read(tmp_path / "ca.pem"))


def test_what_has_ended_is_said(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "sluice.local")
    authority.issue("gateway", timedelta(days=1), begins=datetime.now(UTC) - timedelta(days=2))
    assert "EXPIRED" in run("show", str(tmp_path))
    assert [row["expired"] for row in rows("show", str(tmp_path))] == [False, True]


def test_mistakes(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    assert "'a/b' cannot be the name" in run("new", str(folder), "--services", "gateway,a/b", code=2)
    assert "'ca' cannot be the name" in run("new", str(folder), "--services", "ca", code=2)
    assert "trust_domain" in run("new", str(folder), "--trust-domain", "A B", code=2)
    assert not folder.exists()
    assert "No such file" in run("renew", str(folder), code=1)
    assert "holds no certificates" in run("show", str(folder), code=1)
    run("new", str(folder), "--services", "gateway")
    (folder / "ca.key").write_bytes(key_file(folder, "gateway").read_bytes())
    assert "is not the key of" in run("renew", str(folder), code=1)
    (folder / "ca.pem").write_text("nonsense")
    assert "cannot be read as PEM" in run("show", str(folder), code=1)


def test_by_default_the_services_of_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "sluice.yaml"
    config.write_text("providers: {mine: {adapter: scripted}}\n", encoding="utf-8")
    made = rows("new", str(tmp_path / "tls"), "--config", str(config))
    assert [Path(row["file"]).stem for row in made] == ["gateway", "retrieval", "supervisor", "mine"]


def test_a_local_mesh_keeps_what_holds_and_renews_what_nears_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    first = Certificates(folder).settings("gateway")
    again = Certificates(folder)
    kept = Path(first["certificate"]).read_bytes()
    assert again.settings("gateway") == first
    assert Path(first["certificate"]).read_bytes() == kept
    Authority.open(folder).issue("gateway", timedelta(days=3), begins=datetime.now(UTC) - timedelta(days=2))
    again.renew()
    [_, gateway] = read_folder(folder)
    assert gateway.left() > 0.9
    # Nor does it keep what is broken, or of another CA.
    certificate_file(folder, "gateway").write_text("nonsense")
    again.renew()
    Authority.create(folder, "sluice.local", force=True)
    Certificates(folder).settings("gateway")
    read(folder / "gateway.pem").verify_directly_issued_by(read(folder / "ca.pem"))


def test_a_local_mesh_goes_on_when_it_cannot_renew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "tls"
    certificates = Certificates(folder)
    certificates.settings("gateway")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    certificates.renew()
    assert "No such file" in caplog.text
    folder.write_text("a file")
    with pytest.raises(ConfigError, match="certificates: "):
        Certificates(folder)
