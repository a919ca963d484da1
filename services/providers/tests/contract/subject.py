"""An adapter under test, reached over real grpc or hosted in this process; the tests cannot tell which."""

from __future__ import annotations

import argparse
import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from sluice.chat.v1 import event_pb2, message_pb2, target_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice.provider.v1 import provider_service_pb2_grpc
from sluice_kit.call import Call
from sluice_kit.channels import open_channel
from sluice_kit.errors import SluiceError, from_rpc_error
from sluice_kit.ports import Generator
from sluice_kit.testing import document_of, running
from sluice_providers.colocate import create
from sluice_providers.service import create as create_service

TRANSPORTS = ("grpc", "colocated")
_LIMIT = 60.0


@dataclass
class Outcome:
    """What one attempt came to: all that was received, and how it failed."""

    batches: list[pb.GenerateResponse] = field(default_factory=list)
    error: SluiceError | None = None
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first text."""

    @property
    def events(self) -> list[event_pb2.Event]:
        return [event for batch in self.batches for event in batch.events]

    @property
    def text(self) -> str:
        return text_of(self.events)

    @property
    def ends(self) -> int:
        """How many events say that the answer is complete."""
        return sum(event.HasField("completed") for event in self.events)

    def take(self, batch: pb.GenerateResponse) -> None:
        """Keeps what came."""
        self.batches.append(batch)
        if any(event.WhichOneof("kind") == "text_delta" for event in batch.events):
            self.progress.set()


class Subject:
    """One integration. Failures are SluiceErrors, whatever lies between."""

    def __init__(self, integration: str, stub: Any, generator: Generator | None) -> None:
        self.integration = integration
        self._stub = stub
        self._generator = generator
        self._last = Outcome()

    async def generate(self, request: pb.GenerateRequest, timeout: float = _LIMIT) -> list[event_pb2.Event]:
        """Runs an attempt and returns its events; `batches` has what came, also of an attempt that failed."""
        outcome = self._last
        outcome.batches.clear()
        outcome.progress.clear()
        await self._run(request, timeout, outcome)
        return outcome.events

    async def outcome(
        self, request: pb.GenerateRequest, timeout: float = _LIMIT, outcome: Outcome | None = None
    ) -> Outcome:
        """Runs an attempt beside others and returns what it came to; `outcome` shows it while it runs."""
        outcome = outcome or Outcome()
        try:
            await self._run(request, timeout, outcome)
        except SluiceError as error:
            outcome.error = error
        return outcome

    async def _run(self, request: pb.GenerateRequest, timeout: float, outcome: Outcome) -> None:
        if self._generator is not None:

            def send(batch: pb.GenerateResponse) -> None:
                outcome.take(batch)

            await self._generator.generate(request, Call("/test").with_timeout(timeout), send)
            return
        try:
            if request.whole:
                answer = await self._stub.GenerateWhole(pb.GenerateWholeRequest(request=request), timeout=timeout)
                outcome.take(pb.GenerateResponse(events=answer.events))
            else:
                async for batch in self._stub.Generate(request, timeout=timeout):
                    outcome.take(batch)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    @property
    def batches(self) -> list[pb.GenerateResponse]:
        return self._last.batches

    @property
    def progress(self) -> asyncio.Event:
        return self._last.progress

    @property
    def events(self) -> list[event_pb2.Event]:
        return self._last.events

    async def call(self, method: str, request: Any) -> Any:
        """Calls a method that is no stream, by its name in the contract."""
        if self._generator is not None:
            names = {
                "Embed": self._generator.embed,
                "Rerank": self._generator.rerank,
                "CountTokens": self._generator.count_tokens,
                "ListModels": self._generator.list_models,
                "GetStatus": self._generator.get_status,
            }
            function: Any = names[method]
            return await function(request, Call("/test").with_timeout(_LIMIT))
        try:
            return await getattr(self._stub, method)(request, timeout=_LIMIT)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


@asynccontextmanager
async def subject(
    transport: str, integration: str, settings: Mapping[str, Any], folder: Path
) -> AsyncIterator[Subject]:
    """Runs one integration for the length of the block."""
    section = {"listen": "127.0.0.1:0", **settings}
    document = document_of({"providers": {integration: section}}, folder)
    if transport == "colocated":
        generator = create(document, integration)
        await generator.start()
        try:
            yield Subject(integration, None, generator)
        finally:
            await generator.close()
        return
    # As `sluice_kit.testing.make_service` does, without a search through everything that is installed.
    service = create_service(document, argparse.Namespace(integration=integration))
    async with running(service, document) as server, open_channel(server.address) as channel:
        yield Subject(integration, provider_service_pb2_grpc.ProviderServiceStub(channel), None)


def asking(integration: str, model: str, text: str = "Hello?", **fields: Any) -> pb.GenerateRequest:
    """Returns a request with one user message."""
    return pb.GenerateRequest(
        attempt_id=str(uuid.uuid4()),
        target=target_pb2.Target(provider=integration, model=model),
        messages=[message_pb2.Message(role=message_pb2.MESSAGE_ROLE_USER, parts=[message_pb2.Part(text=text)])],
        **fields,
    )


def kinds(events: list[event_pb2.Event]) -> list[str]:
    """Returns the kinds of events, repeated ones once."""
    names = [event.WhichOneof("kind") or "" for event in events]
    return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]


def text_of(events: list[event_pb2.Event], block: int | None = None) -> str:
    """Returns the text of one block, or of all."""
    deltas = [event.text_delta for event in events if event.WhichOneof("kind") == "text_delta"]
    return "".join(delta.text for delta in deltas if block is None or delta.block_index == block)


async def failure_of(subject: Subject, request: pb.GenerateRequest, timeout: float = _LIMIT) -> SluiceError:
    """Runs an attempt that must fail, and checks that it did not look complete."""
    with pytest.raises(SluiceError) as caught:
        await subject.generate(request, timeout)
    assert not any(event.HasField("completed") for event in subject.events)
    return caught.value
