"""Who plays with one response in the test of its state machine: an adapter and clients that do as they are told."""

import asyncio
from typing import Any

from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.provider.v1.provider_service_pb2 import GenerateRequest, GenerateResponse
from sluice_kit.call import Call
from sluice_kit.errors import SluiceError
from sluice_kit.ports import Send


class Attempt:
    """One attempt as the adapter sees it."""

    def __init__(self, model: str = "") -> None:
        self.model = model
        self.commands: asyncio.Queue[GenerateResponse | Exception | None] = asyncio.Queue()
        self.text = ""
        self.started = False
        self.running = True


class Upstream:
    """An adapter that does what the machine says."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []

    async def generate(self, request: GenerateRequest, call: Call, send: Send) -> None:
        attempt = Attempt(request.target.model)
        self.attempts.append(attempt)
        try:
            while (command := await attempt.commands.get()) is not None:
                if isinstance(command, Exception):
                    raise command
                room = send(command)
                if room is not None:
                    await room
        finally:
            attempt.running = False

    async def close(self) -> None:
        pass

    @property
    def current(self) -> Attempt | None:
        return self.attempts[-1] if self.attempts and self.attempts[-1].running else None


class View:
    """One client: what it was sent, and how its call ended."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.events: list[tuple[int, bytes]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.task: asyncio.Task[None]
        self.left = False

    async def send(self, message: Any) -> None:
        await self.open.wait()
        batch = pb.StreamChatResponse.FromString(message if isinstance(message, bytes) else message.SerializeToString())
        for offset, event in enumerate(batch.events):
            self.events.append((batch.first_sequence + offset, event.SerializeToString(deterministic=True)))

    @property
    def ended(self) -> bool:
        return self.task.done() and not self.left and not self.task.cancelled()

    @property
    def reason(self) -> int | None:
        """Why it failed; None if it ended well."""
        error = self.task.exception()
        assert error is None or isinstance(error, SluiceError)
        return None if error is None else error.reason
