"""An adapter of ours in front of the independent mock, and the mock's own account of what it received."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sluice.chat.v1 import event_pb2, message_pb2, target_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.errors import SluiceError
from sluice_kit.ports import Generator
from sluice_kit.testing import document_of
from sluice_providers.colocate import create

MODEL: Final = "peer-1"
"""The mock answers for every model alike, but reasons only with those that it does not know as ones that do not."""
SECONDS: Final = 30.0

INTEGRATIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "anthropic": {"adapter": "anthropic"},
    "google": {"adapter": "google", "api_version": "v1beta"},
    "ollama": {"adapter": "ollama", "cli": False},
    "openai": {"adapter": "openai", "path": "/v1"},
    "responses": {"adapter": "openai", "path": "/v1", "responses": "always"},
}
"""By the name of a format: the settings of an integration that speaks it. `path` follows the mock's address."""


@dataclass
class Outcome:
    """What one attempt came to."""

    batches: list[pb.GenerateResponse] = field(default_factory=list)
    error: SluiceError | None = None

    @property
    def events(self) -> list[event_pb2.Event]:
        return [event for batch in self.batches for event in batch.events]

    @property
    def text(self) -> str:
        return "".join(event.text_delta.text for event in self.events if event.HasField("text_delta"))

    @property
    def reasoning(self) -> str:
        return "".join(event.reasoning_delta.text for event in self.events if event.HasField("reasoning_delta"))

    @property
    def completed(self) -> event_pb2.Completed:
        """How the attempt ended. It did end, and once."""
        assert self.error is None, self.error
        (last,) = [event.completed for event in self.events if event.HasField("completed")]
        return last

    @property
    def answer(self) -> str:
        """The text of an attempt that ended well."""
        assert self.completed.IsInitialized()
        return self.text

    @property
    def reason(self) -> str:
        """Why it failed. It did fail, and never looked complete."""
        assert self.error is not None
        assert not any(event.HasField("completed") for event in self.events)
        return self.error.reason_name


class Peer:
    """One integration that talks to the mock, under an id by which the mock tells its tests apart."""

    def __init__(self, name: str, url: str, generator: Generator, test_id: str) -> None:
        self.name = name
        self._url = url
        self._generator = generator
        self._test_id = test_id

    async def ask(self, request: pb.GenerateRequest) -> Outcome:
        """Runs an attempt."""
        outcome = Outcome()
        try:
            await self._generator.generate(request, Call("/test").with_timeout(SECONDS), outcome.batches.append)
        except SluiceError as error:
            outcome.error = error
        return outcome

    async def embed(self, *texts: str) -> pb.EmbedResponse:
        """Asks for vectors."""
        target = target_pb2.Target(provider="peer", model=MODEL)
        return await self._generator.embed(
            pb.EmbedRequest(target=target, texts=texts), Call("/test").with_timeout(SECONDS)
        )

    async def models(self) -> list[str]:
        """Asks for the models' ids."""
        reply = await self._generator.list_models(pb.ListModelsRequest(), Call("/test").with_timeout(SECONDS))
        return [model.id for model in reply.models]

    async def journal(self) -> list[dict[str, Any]]:
        """Returns what the mock received of this peer, each request's body in the form of chat completions."""
        found: list[dict[str, Any]] = await self._control("GET", f"journal?testId={self._test_id}")
        return found

    async def chaos(self, **rates: float) -> None:
        """Sets what happens to this peer's requests, and to no other's."""
        await self._control("POST", "chaos", rates)

    async def _control(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - the address is the mock's, which this run started
            f"{self._url}/__aimock/{path}",
            json.dumps(body).encode() if body is not None else None,
            {"Content-Type": "application/json", "X-Test-Id": self._test_id},
            method=method,
        )

        def send() -> Any:
            with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310 - as above
                return json.load(reply)

        return await asyncio.to_thread(send)


@asynccontextmanager
async def peer(name: str, folder: Path) -> AsyncIterator[Peer]:
    """Runs one integration for the length of the block."""
    url = os.environ["SLUICE_PEER_URL"]
    test_id = uuid.uuid4().hex
    settings = dict(INTEGRATIONS[name])
    settings["base_url"] = url + settings.pop("path", "")
    settings["headers"] = {"X-Test-Id": test_id}
    if name != "ollama":
        settings["api_key"] = "sk-test-5d0c"
    generator = create(document_of({"providers": {"peer": settings}}, folder), "peer")
    await generator.start()
    try:
        yield Peer(name, url, generator, test_id)
    finally:
        await generator.close()


def asking(text: str, **fields: Any) -> pb.GenerateRequest:
    """Returns a request with one user message."""
    return pb.GenerateRequest(
        attempt_id=str(uuid.uuid4()),
        target=target_pb2.Target(provider="peer", model=MODEL),
        messages=[message_pb2.Message(role=message_pb2.MESSAGE_ROLE_USER, parts=[message_pb2.Part(text=text)])],
        **fields,
    )
