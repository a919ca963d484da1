"""The tools of others that docs/clients.md shows work with a mesh. `make test-clients` runs this: they take long to build."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .console import ROOT, RunningMesh, blocks, running_mesh

PAGE = ROOT / "docs" / "clients.md"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # the first time, everything is fetched and compiled
    pytest.mark.skipif(
        "SLUICE_TEST_CLIENTS" not in os.environ, reason="they take long to build: `make test-clients` runs it"
    ),
    pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed, and they are installed by it"),
]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    with running_mesh(tmp_path_factory.mktemp("tools")) as running:
        yield running


def test_commands(mesh: RunningMesh) -> None:
    found = [block for block in blocks(PAGE) if block.is_console]
    assert found
    for block in found:
        mesh.run(block, {})
    for name in ("ghz", "grpc-health-probe", "grpcurl"):
        assert Path(mesh.checkout, "build", "tools", name).is_file()


def test_grpcurl_gets_an_answer_without_reflection(mesh: RunningMesh) -> None:
    request = '{"spec": {"model": "scripted/text?tokens=2", "messages": [{"role": 1, "parts": [{"text": "hi"}]}]}}'
    printed = mesh.shell(
        f"build/tools/grpcurl -plaintext -protoset gen/descriptors/sluice.binpb -d '{request}'"
        f" {mesh.address} sluice.gateway.v1.ChatService/StreamChat"
    )
    assert '"first_sequence": "1"' in printed or '"firstSequence": "1"' in printed, printed
    assert '"completed"' in printed
