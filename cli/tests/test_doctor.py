"""`sluice doctor`: meshes that are broken in one way each, and what is said of them."""

import datetime
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1.corpus_pb2 import LocalSource, Source
from sluice_cli.authority import Authority
from sluice_cli.checkup import door, running
from sluice_cli.checkup.findings import Findings, Level
from sluice_cli.mesh import Target
from sluice_client import RetryPolicy, SluiceClient
from sluice_kit.errors import make_error
from sluice_kit.roles import ROLES
from sluice_kit.testing import Mesh, mesh

from .command import both
from .findings import certificate, of, quiet

ROUTES: Final = {"default": {"targets": ["scripted/echo"]}}


def target(address: str, *, tls: bool = False) -> Target:
    return Target(address, tls, None, "as given")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def well() -> AsyncIterator[Mesh]:
    settings = {
        "gateway": {"routes": ROUTES},
        "providers": {"scripted": {"adapter": "scripted"}, "keyless": {"adapter": "scripted", "missing": ["A_KEY"]}},
    }
    async with mesh(settings, retrieval=True) as up:
        yield up


async def examined(address: str, *, ask: bool = False) -> Findings:
    findings = quiet()
    async with SluiceClient(address, retry=RetryPolicy(patience=1.0)) as client:
        if await door.knock(target(address), findings):
            await running.Patient(client, target(address), findings).examine(ask=ask)
    return findings


@pytest.mark.asyncio(loop_scope="module")
async def test_a_mesh_that_is_well_is_said_to_be_and_a_missing_key_is_named(well: Mesh) -> None:
    out, _ = await both(well.address, "doctor", "--ask")
    assert "ok    gateway: serves" in out
    assert "ok    route default: answers" in out
    assert "warn  keyless: not configured: A_KEY not set → set A_KEY and restart the mesh" in out
    assert out.splitlines()[-1].startswith("0 wrong, 1 to look at")
    await both(well.address, "doctor", "--strict", code=1)


@pytest.mark.asyncio(loop_scope="module")
async def test_programs_get_it_as_json(well: Mesh) -> None:
    said = json.loads((await both(well.address, "doctor", "--json"))[0])
    assert said["ok"] is True
    assert {"level": "ok", "part": "retrieval", "said": "answers, 0 corpora", "todo": ""} in said["findings"]


@pytest.mark.asyncio(loop_scope="module")
async def test_clocks_that_differ_are_noticed(well: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 100.0)
    finding = of(await examined(well.address), "clock")
    assert finding.level is Level.WARN
    # And as long as it took to ask.
    assert 95 <= int(finding.said.partition("gateway's is ")[2].partition(" s behind ")[0]) <= 160


@pytest.mark.asyncio(loop_scope="module")
async def test_a_mesh_of_another_release_is_noticed(well: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "ROLES", {**ROLES, "/sluice.gateway.v1.DreamService/Dream": 1})
    assert of(await examined(well.address), "versions").said.endswith("it has no sluice.gateway.v1.DreamService")
    fewer = {path: role for path, role in ROLES.items() if "UsageService" not in path and "Dream" not in path}
    monkeypatch.setattr(running, "ROLES", fewer)
    assert of(await examined(well.address), "versions").said.endswith("it has sluice.gateway.v1.UsageService")


@pytest.mark.asyncio(loop_scope="module")
async def test_corpora_that_were_never_indexed_are_named(well: Mesh) -> None:
    async with SluiceClient(well.address) as client:
        await client.create_corpus("empty")
        finding = of(await examined(well.address), "corpora/empty")
        await client.delete_corpus("empty")
    assert (finding.level, finding.said) == (Level.WARN, "was never indexed, so it cannot be searched")


@pytest.mark.asyncio(loop_scope="module")
async def test_tls_where_there_is_none_is_said_to_be_that(well: Mesh) -> None:
    findings = quiet()
    assert not await door.knock(target(well.address, tls=True), findings)
    assert of(findings, "gateway").said == f"{well.address} does not speak TLS"


async def test_parts_that_are_away_and_routes_without_targets_are_failures(tmp_path: Path) -> None:
    settings = {
        "gateway": {
            "routes": {"default": {"targets": ["gone/m"]}},
            "integrations": {"gone": {"address": f"unix:{tmp_path}/nobody.sock"}},
            "retrieval": {"address": f"unix:{tmp_path}/nobody-either.sock"},
        }
    }
    async with mesh(settings) as up:
        out, _ = await both(up.address, "doctor", code=1)
    assert "fail  gone: the gone service does not answer → is it running" in out
    assert "fail  route default: none of its targets is available: gone/m" in out
    assert "fail  retrieval: " in out


async def test_stores_that_are_away_are_named(tmp_path: Path) -> None:
    settings = {
        "gateway": {
            "records": {"url": "postgresql://sluice:4711@127.0.0.1:1/sluice"},
            "log": {"redis": {"url": "redis://:4711@127.0.0.1:1/0"}},
        }
    }
    async with mesh(settings) as up:
        out, _ = await both(up.address, "doctor", code=1)
    assert "fail  gateway: its records cannot be used, so it takes no new requests → is Postgres up" in out
    assert "fail  gateway: its response log cannot be used, so it takes no new requests → is Redis up" in out
    assert "fail  conversations: " in out
    assert "warn  retrieval: this mesh has no retrieval service → set gateway.retrieval.address" in out
    assert "4711" not in out


async def test_an_adapter_that_is_refused_by_its_certificate_is_said_to_be_that(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "certs", "sluice.local")
    authority.issue("gateway", datetime.timedelta(days=1))
    files = {"certificate": "gateway.pem", "key": "gateway.key", "ca": "ca.pem"}
    plain = grpc.aio.server()
    port = plain.add_insecure_port("127.0.0.1:0")
    await plain.start()
    settings = {
        "tls": {name: str(tmp_path / "certs" / file) for name, file in files.items()},
        "gateway": {"integrations": {"other": {"address": f"127.0.0.1:{port}"}}},
    }
    try:
        async with mesh(settings) as up:
            finding = of(await examined(up.address), "other")
    finally:
        await plain.stop(None)
    assert finding.said.startswith("the other service does not answer: ")
    assert "TLS" in finding.said
    assert "sluice certs show" in finding.todo


async def test_the_address_of_another_service_is_no_door() -> None:
    async with mesh({"providers": {"scripted": {"adapter": "scripted", "listen": "127.0.0.1:0"}}}) as up:
        adapter = up.servers["scripted"].address
        finding = of(await examined(adapter), "gateway")
    assert finding.said == f"what listens at {adapter} is no gateway's door, though it answers health"


async def test_a_corpus_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("health")
    async with mesh({"retrieval": {"allowed_roots": [str(tmp_path)]}}, retrieval=True) as up:
        async with SluiceClient(up.address) as client:
            await client.create_corpus("texts")
            task = await client.index_corpus("texts", Source(local=LocalSource(path=str(tmp_path))))
            await client.watch_task(task.name).result()
        assert of(await examined(up.address), "search").said == "corpora/texts can be searched"

        async def away(*_: object, **__: object) -> None:
            raise make_error(ErrorReason.ERROR_REASON_STORE_UNAVAILABLE, "the vectors cannot be read")

        monkeypatch.setattr(SluiceClient, "search", away)
        finding = of(await examined(up.address), "search")
    assert finding.said == "corpora/texts cannot be searched: the vectors cannot be read"
    assert "retrieval.store" in finding.todo


async def test_a_key_that_is_missing_is_asked_for(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(json.dumps({"keys": [{"id": "a", "sha256": "ab" * 32, "tenant": "t"}]}))
    async with mesh({"auth": {"mode": "keys", "keys_file": str(keys)}}) as up:
        finding = of(await examined(up.address), "key")
    assert finding.level is Level.FAIL
    assert "SLUICE_API_KEY" in finding.todo


async def test_where_nobody_listens_that_is_all_that_is_said() -> None:
    out, _ = await both("127.0.0.1:1", "doctor", code=1)
    first, last = out.splitlines()
    assert first.startswith("fail  gateway: nothing answers at 127.0.0.1:1 (as given): ")
    assert last == "1 wrong, 0 to look at, of 1"


async def test_a_gateway_that_drains_is_said_to_do_that() -> None:
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        finding = of(await examined(f"127.0.0.1:{port}"), "gateway")
    finally:
        await server.stop(None)
    assert (finding.level, finding.said) == (Level.FAIL, "it takes no calls")


async def test_what_is_no_gateway_is_noticed() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        finding = of(await examined(f"127.0.0.1:{port}"), "gateway")
    finally:
        await server.stop(None)
    assert finding.said == f"what listens at 127.0.0.1:{port} is no gateway"


@pytest.mark.parametrize(
    ("days", "trusted", "level", "said"),
    [
        (400, True, Level.OK, "is accepted, for"),
        (5, True, Level.WARN, "ends in 5 days"),
        (-1, True, Level.FAIL, "certificate has expired"),
        (400, False, Level.FAIL, "self-signed certificate"),
    ],
)
async def test_certificates_are_judged(
    days: int, trusted: bool, level: Level, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = certificate(days)
    server = grpc.aio.server()
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(key, chain)]))
    (tmp_path / "ca.pem").write_bytes(chain)
    if trusted:
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        context.set_alpn_protocols(["h2"])
        monkeypatch.setattr(door, "_verifying", lambda: context)
    await server.start()
    try:
        findings = quiet()
        await door.knock(target(f"localhost:{port}", tls=True), findings)
        assert any(one.level is level and said in one.said for one in findings.made), findings.made
        if not trusted:
            plain = await examined(f"localhost:{port}")
            assert of(plain, "gateway").said == f"localhost:{port} speaks TLS"
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("environ", "warned"),
    [
        ({}, False),
        ({"https_proxy": "http://proxy:3128"}, True),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "example.org, .mesh.test"}, False),
        ({"http_proxy": "http://proxy:3128", "NO_PROXY": "example.org"}, True),
    ],
)
def test_proxies_that_other_clients_take_are_named(environ: dict[str, str], warned: bool) -> None:
    findings = quiet()
    door.look_for_proxies(target("gw.mesh.test:7400"), environ, findings)
    assert bool(findings.made) == warned
