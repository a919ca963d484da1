"""What users do to a gateway. Each deed is a coroutine of a client that returns when it is done as it should be.

What is meant to fail is caught where it fails; whatever else a deed raises is a mistake of the mesh, or of the deed.
"""

import contextlib
import itertools
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from bench.paths import INTEGRATION
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_client import ChatStream, SluiceClient, question
from sluice_kit.errors import (
    AuthenticationError,
    CancelledByOwnerError,
    ConflictError,
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    SluiceError,
)

Deed = Callable[[SluiceClient], Awaitable[None]]


class Wrong(Exception):
    """Something went otherwise than it should."""


class Deeds:
    """All of them, and how often each is done."""

    def __init__(self, address: str, key: str, draw: random.Random) -> None:
        """`key` is good at `address`, for those who come for one request alone."""
        self._address = address
        self._key = key
        self._draw = draw
        self._numbers = itertools.count()
        self.shares: Final[dict[Deed, int]] = {
            self.ask: 28,
            self.read: 14,
            self.leave: 9,
            self.cancel: 6,
            self.resume: 8,
            self.meet_errors: 6,
            self.repeat: 5,
            self.converse: 4,
            self.embed: 6,
            self.look_around: 5,
            self.come_once: 4,
            self.run_out_of_time: 3,
            self.ask_again: 3,
            self.watch_health: 1,
            self.be_refused: 2,
        }

    def next(self) -> Deed:
        """Draws one."""
        (deed,) = self._draw.choices(list(self.shares), list(self.shares.values()))
        return deed

    def spec(self, model: str, text: str = "How does the valve open?") -> pb.ChatSpec:
        """Returns a question with labels that nobody used before."""
        spec = question(text, model=f"{INTEGRATION}/{model}")
        spec.labels.update({"user": f"user-{next(self._numbers)}", "request": uuid.uuid4().hex})
        return spec

    def new_model(self, model: str) -> str:
        """Returns a model's name that nobody used before."""
        return f"{model}-u{next(self._numbers)}"

    async def ask(self, client: SluiceClient) -> None:
        """A whole answer."""
        answer = await client.chat(self.spec("m-n8"))
        _check(bool(answer.text), "an empty answer")

    async def read(self, client: SluiceClient) -> None:
        """A stream to its end."""
        async with client.stream_chat(self.spec("m-n100-d5")) as stream:
            await _take(stream)

    async def leave(self, client: SluiceClient) -> None:
        """A stream that is left in the middle, at once, by somebody who does not come back."""
        stream = client.stream_chat(self.spec("m-n400-d5"), resume=self._draw.random() < 0.5)
        async with stream:
            await _take(stream, self._draw.randrange(2, 40))

    async def cancel(self, client: SluiceClient) -> None:
        """A stream that its reader cancels and reads to its end."""
        async with client.stream_chat(self.spec("m-n400-d5")) as stream:
            await _take(stream, self._draw.randrange(2, 20))
            await stream.cancel()
            # Where the machine is slow, tokens arrive together, and it may have ended by itself.
            with contextlib.suppress(CancelledByOwnerError):
                await _take(stream)

    async def resume(self, client: SluiceClient) -> None:
        """A stream whose connection is cut, and that is resumed, twice."""
        async with client.stream_chat(self.spec("m-n100-d5")) as stream:
            if not await _take(stream, self._draw.randrange(2, 60)):
                return  # where the machine is slow, tokens arrive together: there is nothing left
            stream.detach()
        _check(stream.response is not None, "no name")
        try:
            async with client.resume_chat(stream.response or "", stream.last_sequence) as rest:
                await _take(rest)
            async with client.resume_chat(stream.response or "") as again:
                await _take(again)
        except NotFoundError:
            return  # where the machine is slower still, it is no longer kept
        _check(again.last_sequence == rest.last_sequence, "a resumed stream has other events")

    async def meet_errors(self, client: SluiceClient) -> None:
        """A vendor that refuses, or breaks off, always the same model or one that nobody used before."""
        model = self._draw.choice(("m-e500", "m-e429", "m-e401", "m-x5", "m-e503"))
        if self._draw.random() < 0.7:
            model = self.new_model(model)
        try:
            async with client.stream_chat(self.spec(model)) as stream:
                await _take(stream)
        except SluiceError:
            return
        raise Wrong(f"{model} answered")

    async def repeat(self, client: SluiceClient) -> None:
        """A request id that is used twice for the same, and once for something else."""
        request_id, spec = str(uuid.uuid4()), self.spec("m-n8")
        first = await client.chat(spec, request_id=request_id)
        second = await client.chat(spec, request_id=request_id)
        _check(first.response == second.response, "asked twice")
        spec.labels["user"] += " else"
        try:
            await client.chat(spec, request_id=request_id)
        except ConflictError:
            return
        raise Wrong("a request id was used for two requests")

    async def converse(self, client: SluiceClient) -> None:
        """A conversation of two turns, which half of the users delete."""
        made = await client.create_conversation(labels={"user": f"user-{next(self._numbers)}"})
        for text in ("And the pump?", "And why?"):
            spec = self.spec("m-n8", text)
            spec.conversation = made.name
            await client.chat(spec)
        turns = [turn async for turn in client.list_turns(made.name)]
        _check(len(turns) == 2, "turns are missing")
        if self._draw.random() < 0.5:
            await client.delete_conversation(made.name)

    async def embed(self, client: SluiceClient) -> None:
        """A vector."""
        labels = {"user": f"user-{next(self._numbers)}"}
        found = await client.embed(f"{INTEGRATION}/embed", [f"text {next(self._numbers)}"], labels=labels)
        _check(len(found.embeddings) == 1, "no vector")

    async def look_around(self, client: SluiceClient) -> None:
        """Lists of what there is, and something that is not there."""
        _ = [model async for model in client.list_models()]
        _ = [integration async for integration in client.list_integrations()]
        _ = [conversation async for conversation in client.list_conversations()]
        await client.list_routes()
        try:
            await client.get_response(f"responses/{uuid.uuid4().hex}")
        except NotFoundError:
            return
        raise Wrong("a response that never was")

    async def come_once(self, _: SluiceClient) -> None:
        """Somebody new, for one question alone."""
        async with SluiceClient(self._address, self._key) as client:
            await self.ask(client)

    async def run_out_of_time(self, client: SluiceClient) -> None:
        """A stream that takes longer than its reader has."""
        try:
            async with client.stream_chat(self.spec("m-n400-d20"), timeout=0.3) as stream:
                await _take(stream)
        except DeadlineError:
            return
        raise Wrong("no deadline")

    async def ask_again(self, client: SluiceClient) -> None:
        """A question that may be answered from the cache; half of the time it was never asked before."""
        text = "How?" if self._draw.random() < 0.5 else f"How {next(self._numbers)}?"
        spec = self.spec("m-n8", text)
        spec.cache = pb.CachePolicy.CACHE_POLICY_USE
        await client.chat(spec)

    async def watch_health(self, client: SluiceClient) -> None:
        """A look at the integrations, as long as the first of them is told."""
        async with client.watch_integration_health() as stream:
            async for _ in stream:
                break

    async def be_refused(self, client: SluiceClient) -> None:
        """A key, a model and a request that are not good."""
        try:
            async with SluiceClient(self._address, uuid.uuid4().hex) as stranger:
                await self.ask(stranger)
        except AuthenticationError:
            pass
        else:
            raise Wrong("a key that nobody has")
        for spec, expected in (
            (question("?", model=f"gone-{next(self._numbers)}/model"), NotFoundError),
            (question("?", model="m" * 400), InvalidRequestError),
        ):
            try:
                await client.chat(spec)
            except expected:
                continue
            raise Wrong("a request that is not good")


async def _take(stream: ChatStream, most: int | None = None) -> bool:
    """Reads so many events, or all. Returns whether there are more."""
    number = 0
    async for item in stream:
        number += 1
        if number == most:
            return item.kind != "completed"
    return False


def _check(fine: bool, what: str) -> None:
    if not fine:
        raise Wrong(what)
