"""The mesh that the cases run against, and the runner of one client."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.retrieval.v1 import corpus_pb2
from sluice_client import SluiceClient
from sluice_kit.testing import mesh

_SECONDS: Final = 60.0
"""Bound of every wait: far above what is needed, so that only a hang reaches it."""
_LINE_BYTES: Final = 1024 * 1024
_KEY: Final = "SLUICE_TEST_KEY"


class Runner:
    """The process of one client: a line of JSON in, a line of JSON out."""

    def __init__(self, process: asyncio.subprocess.Process, key: str) -> None:
        self._process = process
        self._key = key

    async def ask(self, do: str, address: str, **more: Any) -> dict[str, Any]:
        """Has something done, and returns what came of it."""
        await self.tell(do, address, **more)
        return await self.read()

    async def tell(self, do: str, address: str, **more: Any) -> None:
        """Has something done."""
        await self.write({"do": do, "address": address, "key": self._key, **more})

    async def write(self, what: dict[str, Any]) -> None:
        """Writes a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        await self._process.stdin.drain()

    async def read(self) -> dict[str, Any]:
        """Reads a line."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), _SECONDS)
        assert line, "the runner ended"
        said: dict[str, Any] = json.loads(line)
        return said


@dataclass
class Stage:
    """What a case has: a client, and a mesh with its owner's view of it."""

    client: Runner
    mesh: str
    owner: SluiceClient
    folder: Path
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the gateway ended a watcher that read too slowly."""

    async def state_of(self, response: str) -> pb.ResponseState.ValueType:
        """Returns where a response stands."""
        return (await self.owner.get_response(response)).state

    async def attempts(self, label: str) -> int:
        """Returns how many attempts the ledger has under a label."""
        return sum([row.figures.attempts async for row in self.owner.query_usage(label_keys=["conformance"])
                    if row.labels.get("conformance") == label])  # fmt: skip

    async def task(self) -> str:
        """Returns the name of a task with events in plenty."""
        for number in range(20):
            (self.folder / f"{number}.md").write_text(f"# Page {number}\n\nThe sluice opens at low tide.\n", "utf-8")
        corpus = f"c-{secrets.token_hex(6)}"
        await self.owner.create_corpus(corpus)
        source = corpus_pb2.Source(local=corpus_pb2.LocalSource(path=str(self.folder)))
        return (await self.owner.index_corpus(corpus, source)).name


class _Stalls(logging.Handler):
    def __init__(self, seen: asyncio.Event) -> None:
        super().__init__(logging.INFO)
        self._seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "reason", "") == "WATCHER_STALLED":
            self._seen.set()


@contextlib.asynccontextmanager
async def runner(command: Sequence[str], key: str) -> AsyncIterator[Runner]:
    """Runs a client's runner for the length of the block."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LINE_BYTES, env=_environment()
    )
    try:
        yield Runner(process, key)
        assert process.stdin is not None
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), _SECONDS) == 0, "the runner did not end well"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("SLUICE_") or name == "SLUICE_CI_RUN"
    }
    # The mesh is on this machine, whatever proxy leads away from it.
    return kept | dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[tuple[Stage, str]]:
    """Runs a mesh for the length of the block; yields a stage without a client yet, and the key."""
    key = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="sluice-conformance-") as place:
        folder = Path(place)
        source = folder / "source"
        source.mkdir()
        row = {"id": "test", "sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": "t", "roles": ["editor"]}
        (folder / "keys.yaml").write_text(json.dumps({"keys": [row]}), encoding="utf-8")
        settings = {
            "state_dir": str(folder / "state"),
            "auth": {"mode": "keys", "keys_file": str(folder / "keys.yaml")},
            "providers": {"scripted": {"adapter": "scripted"}},
            # A whole answer fits, so that a watcher that was ended finds all of it.
            # Failures that are asked for open no circuit.
            "gateway": {
                "watchers": {"stall_seconds": 1},
                "log": {"response_bytes": 64 * 1024 * 1024},
                "resilience": {"breaker": {"failures": 1000}},
            },
            "retrieval": {"allowed_roots": [str(source)]},
        }
        async with mesh(settings, retrieval=True) as running, SluiceClient(running.address, key) as owner:
            seen = asyncio.Event()
            handler = _Stalls(seen)
            log = logging.getLogger("sluice_kit.rpc")
            before = log.level
            log.addHandler(handler)
            log.setLevel(logging.INFO)
            try:
                yield Stage(None, running.address, owner, source, seen), key  # type: ignore[arg-type]  # it comes later
            finally:
                log.removeHandler(handler)
                log.setLevel(before)
