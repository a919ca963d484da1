"""The steps of a sign-in: how they end, and that leaving them gives the sign-in up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice.provider.v1.sign_in_pb2 import SignInChallenge, SignInDone, SignInStep
from sluice_client import SluiceClient, StreamProtocolError
from sluice_kit.auth import LocalAuthenticator
from sluice_kit.config import ServerConfig
from sluice_kit.errors import DeadlineError, LimitError, SluiceError, UnavailableError
from sluice_kit.server import Server

SERVICE = pb.DESCRIPTOR.services_by_name["IntegrationService"]
HEARTBEAT = pb.BeginSignInResponse()
CHALLENGE = pb.BeginSignInResponse(step=SignInStep(challenge=SignInChallenge(user_code="AB-CD")))
DONE = pb.BeginSignInResponse(step=SignInStep(done=SignInDone(account="me")))
UNKNOWN = pb.BeginSignInResponse(step=SignInStep.FromString(b"\xfa\x07\x00"))
"""A step of a kind from the future."""


class Gateway:
    """Sends `messages`, then waits if it `hangs`, then ends with `error` if there is one."""

    def __init__(
        self, *messages: pb.BeginSignInResponse, hangs: bool = False, error: SluiceError | None = None
    ) -> None:
        self.messages = messages
        self.hangs = hangs
        self.error = error
        self.calls = 0
        self.hung = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def begin(self, _: pb.BeginSignInRequest, __: Any, send: Any) -> None:
        self.calls += 1
        try:
            for message in self.messages:
                await send(message)
            if self.hangs:
                self.hung.set()
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[SluiceClient]:
        """Serves it for the length of the block, with a client."""
        server = Server("fake", "127.0.0.1:0", None, LocalAuthenticator(), ServerConfig())

        async def other(*_: object) -> None:
            raise AssertionError("not asked for")

        rpcs = {method.name: other for method in SERVICE.methods} | {"BeginSignIn": self.begin}
        server.add(SERVICE, SimpleNamespace(**rpcs))
        await server.bind()
        await server.ready()
        try:
            async with SluiceClient(server.address) as client:
                yield client
        finally:
            await server.stop(0)


async def kinds(client: SluiceClient) -> list[str | None]:
    async with client.begin_sign_in("copilot") as steps:
        return [step.WhichOneof("kind") async for step in steps]


async def test_steps_without_heartbeats_and_unknown_kinds() -> None:
    async with Gateway(HEARTBEAT, CHALLENGE, HEARTBEAT, UNKNOWN, DONE).serving() as client:
        assert await kinds(client) == ["challenge", "done"]
        steps = client.begin_sign_in("copilot")
        found = [step async for step in steps]
        assert found[1].done.account == "me"
        with pytest.raises(StopAsyncIteration):
            await anext(steps)


@pytest.mark.parametrize("messages", [(), (CHALLENGE,), (DONE, CHALLENGE)])
async def test_an_end_without_the_last_step_is_none(messages: tuple[pb.BeginSignInResponse, ...]) -> None:
    async with Gateway(*messages).serving() as client:
        with pytest.raises(StreamProtocolError):
            await kinds(client)


async def test_what_the_mesh_says_is_raised_and_nothing_is_asked_twice() -> None:
    gateway = Gateway(CHALLENGE, error=LimitError("another one runs"))
    async with gateway.serving() as client:
        with pytest.raises(LimitError, match="another one runs"):
            await kinds(client)
    assert gateway.calls == 1
    async with SluiceClient("127.0.0.1:1") as client:
        with pytest.raises(UnavailableError):
            await kinds(client)


@pytest.mark.parametrize("how", ["leave", "cancel", "timeout"])
async def test_leaving_gives_the_sign_in_up(how: str) -> None:
    gateway = Gateway(CHALLENGE, hangs=True)
    async with gateway.serving() as client:
        for timeout in (0.3, 3.0, 30.0) if how == "timeout" else ():  # time enough to get there, on any machine
            async with client.begin_sign_in("copilot", timeout=timeout) as steps:
                with pytest.raises(DeadlineError):
                    while True:
                        await anext(steps)
            if gateway.hung.is_set():
                break
        async with contextlib.AsyncExitStack() as stack:
            if how != "timeout":
                steps = await stack.enter_async_context(client.begin_sign_in("copilot"))
                await anext(steps)
            if how == "cancel":
                waiting = asyncio.ensure_future(anext(steps))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
        await asyncio.wait_for(gateway.cancelled.wait(), 60)
