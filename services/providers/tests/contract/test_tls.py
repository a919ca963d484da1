"""Over TLS: a configured authority is trusted by tokens and SDKs alike, and nothing else is."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError

from .certificates import certificate
from .conftest import wires_with
from .subject import asking, failure_of, subject, text_of
from .upstream import Upstream, running_upstream
from .wire_format import Format

every_format = wires_with(lambda wire: True)


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Upstream]:
    """An upstream whose authority is `chain.pem`."""
    _, context = certificate(tmp_path, "upstream", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    async with running_upstream(context) as running:
        yield running


@every_format
async def test_a_configured_authority_is_trusted(
    transport: str, wire: Format, secure: Upstream, tmp_path: Path
) -> None:
    settings = {"adapter": wire.adapter, **wire.settings(secure.url), "ca_file": "chain.pem"}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        secure.answer(wire.stream(wire.text("Hello")))
        assert text_of(await running.generate(asking("vendor", wire.model))) == "Hello"
        secure.answer(wire.models)
        assert (await running.call("ListModels", pb.ListModelsRequest())).models
        if wire.embeddings is not None:
            secure.answer(wire.embeddings)
            target = asking("vendor", "embedding-model").target
            assert (await running.call("Embed", pb.EmbedRequest(target=target, texts=["a"]))).embeddings


@every_format
async def test_nobody_else_is_trusted(transport: str, wire: Format, secure: Upstream, tmp_path: Path) -> None:
    settings = {"adapter": wire.adapter, **wire.settings(secure.url)}
    async with subject(transport, "vendor", settings, tmp_path) as running:
        error = await failure_of(running, asking("vendor", wire.model))
        assert error.reason_name == "UPSTREAM_UNAVAILABLE"
        assert "certificate" in error.message
        with pytest.raises(SluiceError) as caught:
            await running.call("ListModels", pb.ListModelsRequest())
        assert caught.value.reason_name == "UPSTREAM_UNAVAILABLE"
    assert secure.requests == []


@every_format
@pytest.mark.parametrize("contents", [None, b"", b"no certificate"], ids=["missing", "empty", "garbage"])
async def test_a_file_that_holds_no_authority_is_a_mistake_of_the_configuration(
    contents: bytes | None, wire: Format, tmp_path: Path
) -> None:
    path = tmp_path / "other.pem"
    if contents is not None:
        path.write_bytes(contents)
    settings = {"adapter": wire.adapter, **wire.settings("https://127.0.0.1:1"), "ca_file": "other.pem"}
    with pytest.raises(ConfigError, match="ca_file"):
        async with subject("colocated", "vendor", settings, tmp_path):
            pass
