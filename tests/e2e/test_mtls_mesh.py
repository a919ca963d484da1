"""TLS of whole meshes: the public door, and `sluice up --mtls` with real processes."""

from __future__ import annotations

import socket
import ssl
import subprocess
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_cli.authority import Authority, certificate_file, key_file
from sluice_client import RetryPolicy, SluiceClient, question
from sluice_kit.errors import SluiceError
from sluice_kit.testing import mesh

from .processes import SECONDS, SLUICE, Mesh, Up, environment, marked, until


def certificates(folder: Path, *services: str) -> Authority:
    authority = Authority.create(folder, "sluice.local")
    for service in services:
        authority.issue(service, timedelta(days=1))
    return authority


async def test_the_public_door_does_tls_and_may_ask_for_certificates(tmp_path: Path) -> None:
    certificates(tmp_path, "gateway", "person")
    roots = (tmp_path / "ca.pem").read_bytes()
    nobody = grpc.ssl_channel_credentials(roots)
    pair = key_file(tmp_path, "person").read_bytes(), certificate_file(tmp_path, "person").read_bytes()
    person = grpc.ssl_channel_credentials(roots, *pair)
    door = {"certificate": str(certificate_file(tmp_path, "gateway")), "key": str(key_file(tmp_path, "gateway"))}
    async with mesh({"gateway": {"tls": door}}) as running, SluiceClient(running.address, tls=nobody) as client:
        assert (await client.chat(question("hello", model="scripted/echo"))).text == "hello"
    async with mesh({"gateway": {"tls": {**door, "client_ca": str(tmp_path / "ca.pem")}}}) as running:
        async with SluiceClient(running.address, tls=person) as client:
            assert (await client.chat(question("hello", model="scripted/echo"))).text == "hello"
        async with SluiceClient(running.address, tls=nobody, retry=RetryPolicy(patience=0)) as client:
            with pytest.raises(SluiceError) as caught:
                await client.get_model("scripted/echo")
    assert caught.value.reason == ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE
    assert "as where TLS fails" in caught.value.message


def shown(address: str, folder: Path, service: str | None) -> tuple[str, bytes]:
    """The certificate that retrieval shows to whom has that service's certificate, or none; how it then greets."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    if service is not None:
        context.load_cert_chain(certificate_file(folder, service), key_file(folder, service))
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="retrieval.sluice.local") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
        assert der is not None
        try:
            greeting = secured.recv(1)
        except ssl.SSLError:
            greeting = b""  # it says why it closes, where that comes in time
    return ssl.DER_cert_to_PEM_cert(der), greeting


@pytest.mark.slow
def test_a_local_mesh_of_processes_over_mutual_tls(tmp_path: Path) -> None:
    """Everything works as without: the door with TLS, too, which other commands find by themselves."""
    authority = certificates(tmp_path / "door", "gateway")
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "valve.md").write_text("The valve of the sluice opens at seven in the morning.\n")
    settings = {
        "providers": {"extractive": {"adapter": "extractive"}, "scripted": {"adapter": "scripted"}},
        "gateway": {
            "routes": {"default": {"targets": ["extractive/quote"]}},
            "tls": {
                "certificate": str(certificate_file(authority.folder, "gateway")),
                "key": str(key_file(authority.folder, "gateway")),
            },
        },
        "retrieval": {"allowed_roots": [str(folder)], "embedder": {"model": "scripted/embed", "dimensions": 256}},
        "tls": {"reload_seconds": 0.1},
    }
    up = Up(tmp_path, settings, "--mtls", GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=str(authority.folder / "ca.pem"))
    try:
        running = Mesh(up)
        assert running.address.startswith("https://127.0.0.1:")
        places = {line["service"]: line["address"] for line in up.said if line.get("state") == "up"}
        assert set(places) == {"extractive", "scripted", "retrieval", "gateway"}
        assert all(place.startswith("127.0.0.1:") for place in places.values())
        assert str(running.json("status")[0]["integrations"]).count("'HEALTH_STATE_AVAILABLE'") == 2
        # Texts are embedded through gateway.internal, back from retrieval.
        running.run("index", str(folder), "--name", "notes")
        answer = running.run("ask", "When does the valve open?", "--corpus", "notes").stdout
        assert "seven" in answer
        assert "valve.md" in answer
        # New certificates are served without a restart, and questions go on over new connections.
        folder = up.state_dir / "tls"
        running.run("certs", "renew", str(folder), "--days", "2")
        renewed = certificate_file(folder, "retrieval").read_text()
        until(
            lambda: shown(places["retrieval"], folder, "gateway")[0] == renewed, "the old certificate is still served"
        )
        assert "seven" in running.run("ask", "When does the valve open?", "--corpus", "notes").stdout
        assert {line["restarts"] for line in up.said if "restarts" in line} == {0}
        # And nobody without a certificate gets at a service, though its port is open to this machine.
        assert shown(places["retrieval"], folder, "gateway")[1] != b""
        assert shown(places["retrieval"], folder, None)[1] == b""
        for pid in marked(up.mark):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            assert b"PRIVATE KEY" not in words
    finally:
        assert up.end() == 0


def test_a_mesh_with_certificates_of_its_own_makes_none(tmp_path: Path) -> None:
    (tmp_path / "sluice.yaml").write_text("tls: {trust_domain: x, ca: y}\n", encoding="utf-8")
    result = subprocess.run(
        [str(SLUICE), "up", "--mtls", "--port", "0", "--set", f"state_dir={tmp_path}/state"],
        cwd=tmp_path,
        env=environment(tmp_path / "home"),
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 1
    assert "sluice.yaml:1: tls.ca: `sluice up --mtls` makes certificates of its own" in result.stderr
