"""The Responses interface of OpenAI beside chat completions: which requests take it, and answers in the background.

A background answer is made by a job at the vendor that goes on when a connection breaks. One attempt follows one job to
its end: it attaches to the job's stream again behind the last event that it read, and where that is not to be had it
asks for the job's state until there is an end. Nothing is generated twice, so this is no retry. A job that nobody will
read is cancelled, because it would go on and cost.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal
from urllib.parse import quote

import aiohttp
import msgspec

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import Reason, SluiceError
from sluice_providers.base import Emitter
from sluice_providers.exchange import SERVER_SENT_EVENTS, HttpAdapter
from sluice_providers.http import JSON, Reply, printable_header
from sluice_providers.wire.responses_request import reasons, responses_body
from sluice_providers.wire.responses_stream import ResponsesStream

Choice = Literal["auto", "always", "never"]

Paths = Callable[[str], str]
"""Returns where an operation is asked for, e.g. `responses`."""

CODES: Final[Mapping[str, Reason]] = {
    "bio_policy": ErrorReason.ERROR_REASON_CONTENT_FILTERED,
    "image_content_policy_violation": ErrorReason.ERROR_REASON_CONTENT_FILTERED,
    "misalignment_policy_violation": ErrorReason.ERROR_REASON_CONTENT_FILTERED,
    "too_many_requests": ErrorReason.ERROR_REASON_UPSTREAM_RATE_LIMITED,
} | dict.fromkeys(
    (
        "data_residency_mismatch", "empty_image_file", "failed_to_download_image", "image_file_not_found",
        "image_file_too_large", "image_parse_error", "image_too_large", "image_too_small", "invalid_base64_image",
        "invalid_image", "invalid_image_format", "invalid_image_mode", "invalid_image_url", "invalid_prompt",
        "unsupported_image_media_type",
    ),
    ErrorReason.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT,
)  # fmt: skip  # names read better side by side
"""What the codes of a response that failed mean, which has no status beside them."""
ATTACHES: Final = 4
"""How often in a row a stream may break without an event before the job is asked for its state instead."""
POLLS: Final = 3
"""How often in a row that question may fail."""
_OPERATION: Final = "responses"
_FIRST_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 4.0
_MAX_ASKED_PAUSE: Final = 30.0
_CANCEL_SECONDS: Final = 1.0
_giving_up: Final[set[asyncio.Task[None]]] = set()
"""Keeps tasks that nobody awaits any more from being collected."""


def wanted(request: pb.GenerateRequest, integration: str, choice: Choice | None, *, own: bool) -> bool:
    """Tells whether a request takes the Responses interface; see the setting `responses`.

    `own` tells whether the server is OpenAI's own.
    """
    if choice is None:
        choice = "auto" if own else "never"
    if choice == "auto":
        return request.background or reasons(request, integration)
    return choice == "always"


async def generate(
    adapter: HttpAdapter, request: pb.GenerateRequest, emitter: Emitter, *, summary: str, path_of: Paths
) -> None:
    """Runs one attempt. `summary` is how reasoning is summed up; empty: not at all."""
    body = responses_body(request, integration=adapter.integration, summary=summary)
    if not request.whole:
        body["stream"] = True
    if request.background:
        await _Job(adapter, request, emitter, path_of).run(body)
        return
    await adapter.exchange(
        path_of(_OPERATION),
        body,
        request,
        emitter,
        lambda reply: _reader(adapter.integration, reply),
        SERVER_SENT_EVENTS,
    )


def _reader(integration: str, reply: Reply, *, stored: bool = False) -> ResponsesStream:
    return ResponsesStream(integration, printable_header(reply.headers.get("x-request-id")), stored=stored)


class _Job:
    """One background answer, from its request to its end."""

    def __init__(self, adapter: HttpAdapter, request: pb.GenerateRequest, emitter: Emitter, path_of: Paths) -> None:
        self._adapter = adapter
        self._request = request
        self._emitter = emitter
        self._path_of = path_of
        self._reader = ResponsesStream(adapter.integration, "", stored=True)

    async def run(self, body: dict[str, Any]) -> None:
        """Starts the job and emits its answer. Raises like `HttpAdapter.exchange`."""
        try:
            await self._start(body)
            if not self._reader.done:
                if not self._reader.response_id:
                    # Without its id nothing can be asked: the end of the stream is the end of the attempt.
                    return
                await self._attach()
            if not self._reader.done:
                await self._poll()
        finally:
            if self._reader.response_id and not self._reader.over:
                await self._cancel()

    async def _start(self, body: dict[str, Any]) -> None:
        data = msgspec.json.encode(body)
        upstream = self._adapter.upstream
        path = self._path_of(_OPERATION)
        headers = await self._adapter.authorize(path, data)
        accept = JSON if self._request.whole else SERVER_SENT_EVENTS.media_type
        async with upstream.post(path, data, headers, accept=accept, model=self._request.target.model) as reply:
            self._reader = _reader(self._adapter.integration, reply, stored=True)
            if self._request.whole:
                await self._take(self._reader.polled(await reply.whole()))
            else:
                await self._follow(reply)

    async def _follow(self, reply: Reply) -> None:
        """Emits the events of a stream until the response ends, or the stream does."""
        decoder = SERVER_SENT_EVENTS.decoder()
        reader = self._reader
        while not reader.done:
            try:
                chunk = await reply.read()
            except SluiceError:
                if not reader.response_id:
                    raise
                return  # it broke off; the job goes on
            if not chunk:
                return
            self._emitter.touch()
            payloads = decoder.feed(chunk)
            if payloads:
                batch = reader.translate(payloads)
                if batch.events or reader.alive:
                    await self._emitter.emit(batch)
        await reply.finish()

    async def _attach(self) -> None:
        """Follows the job's stream again, behind the last event read; gives up where that leads nowhere."""
        reader = self._reader
        tries = 0
        while not self._request.whole and reader.sequence >= 0 and tries < ATTACHES:
            before = reader.sequence
            if tries:
                await asyncio.sleep(_FIRST_PAUSE * 2**tries)
            reader.resume()
            path = self._path()
            path += f"{'&' if '?' in path else '?'}stream=true&starting_after={before}"
            headers = await self._adapter.authorize(path, b"")
            request = self._adapter.upstream.request("GET", path, None, headers, accept=SERVER_SENT_EVENTS.media_type)
            async with contextlib.AsyncExitStack() as stack:
                with contextlib.suppress(aiohttp.ClientError):  # not reached: as good as broken off
                    try:
                        reply = await stack.enter_async_context(request)
                    except SluiceError:
                        return  # this vendor, or this job, has no stream to attach to
                    await self._follow(reply)
            if reader.done:
                return
            tries = tries + 1 if reader.sequence == before else 0

    async def _poll(self) -> None:
        """Asks for the job's state until it has ended, and emits what is missing of its answer."""
        path = self._path()
        pause = _FIRST_PAUSE
        failures = 0
        while True:
            try:
                headers = await self._adapter.authorize(path, b"")
                async with self._adapter.upstream.request("GET", path, None, headers, accept=JSON) as reply:
                    state = await reply.whole()
            except (SluiceError, aiohttp.ClientError) as error:
                failures += 1
                asked = self._may_ask_again(error, failures)
                await asyncio.sleep(max(pause, asked))
            else:
                failures = 0
                self._emitter.touch()
                await self._take(self._reader.polled(state))
                if self._reader.done:
                    return
                await asyncio.sleep(pause)
            pause = min(pause * 2, _MAX_PAUSE)

    def _may_ask_again(self, error: Exception, failures: int) -> float:
        """Returns the seconds that the vendor asks to wait. Raises where there is nothing to wait for."""
        if isinstance(error, SluiceError) and error.reason == ErrorReason.ERROR_REASON_MODEL_NOT_FOUND:
            raise self._adapter.error(
                ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE,
                f"{self._adapter.integration} no longer knows the answer that it makes in the background",
            )
        if failures > POLLS or (isinstance(error, SluiceError) and not error.retryable):
            raise error
        return min(getattr(error, "retry_after", None) or 0.0, _MAX_ASKED_PAUSE)

    async def _take(self, batch: pb.GenerateResponse) -> None:
        # Without events it tells who reads a stream that the job is alive.
        if batch.events or not self._request.whole:
            await self._emitter.emit(batch)

    async def _cancel(self) -> None:
        """Tells the vendor that nobody will read the answer. Whether it heard is not waited for long."""
        # A task of its own: a limit of time and the end of the call may both cancel this one.
        task = asyncio.create_task(self._give_up())
        _giving_up.add(task)
        task.add_done_callback(_giving_up.discard)
        await asyncio.shield(task)

    async def _give_up(self) -> None:
        path = self._path("/cancel")
        # A RuntimeError says that the adapter was closed meanwhile.
        with contextlib.suppress(SluiceError, aiohttp.ClientError, TimeoutError, RuntimeError):
            async with asyncio.timeout(_CANCEL_SECONDS):
                await self._adapter.upstream.fetch("POST", path, await self._adapter.authorize(path, b""))

    def _path(self, action: str = "") -> str:
        return self._path_of(f"{_OPERATION}/{quote(self._reader.response_id, safe='')}{action}")
