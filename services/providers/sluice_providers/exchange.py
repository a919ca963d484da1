"""The token path of every adapter that speaks HTTP: a request, its reply read as it comes, its events in batches.

docs/adr/0010-token-path.md has the reasons. All bytes that have arrived are read at once, cut into payloads by one
decoder, translated, and leave as one message.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

import msgspec

from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import Reason, SluiceError
from sluice_providers.base import Adapter, Emitter
from sluice_providers.failures import VendorError, error_words, protocol_error, vendor_failure
from sluice_providers.http import JSON, HttpSettings, Reply, Upstream
from sluice_providers.ndjson import LineDecoder
from sluice_providers.sse import EventTooLong, SSEDecoder

P = TypeVar("P")


class Decoder(Protocol[P]):
    """Cuts the bytes of one stream into payloads."""

    def feed(self, data: bytes) -> list[P]:
        """Takes the next bytes, cut anywhere, and returns the payloads that they complete. Raises EventTooLong."""


@dataclass(frozen=True, slots=True)
class Framing(Generic[P]):
    """How a vendor frames the payloads of its streams."""

    media_type: str
    """What the reply says it is."""
    decoder: Callable[[], Decoder[P]]
    """Makes the decoder of one stream."""


SERVER_SENT_EVENTS: Final = Framing("text/event-stream", SSEDecoder)
JSON_LINES: Final = Framing("application/x-ndjson", LineDecoder)


class ReplyReader(Protocol[P]):
    """Translates one reply of a wire format into events.

    `done` is set by the format's terminal marker and by nothing else; `alive` by a sign of life that is no event.
    """

    done: bool
    alive: bool

    def translate(self, payloads: list[P]) -> pb.GenerateResponse:
        """Returns the events of some payloads of the stream. Raises VendorError, SluiceError, msgspec.DecodeError."""

    def translate_whole(self, payload: bytes) -> pb.GenerateResponse:
        """Returns the events of a reply that came whole. Raises like `translate`."""

    def ended(self) -> pb.GenerateResponse | None:
        """Returns the last events at a proper end of the body, where the marker was read before and more might have
        come; None where the marker is missing, which makes the end a failure."""


class HttpAdapter(Adapter):
    """Base of adapters in front of an HTTP vendor."""

    CODES: ClassVar[Mapping[str, Reason]] = {}
    """What the vendor's error codes and types mean, where they say more than the status."""

    def __init__(self, integration: str, settings: HttpSettings) -> None:
        super().__init__(integration, settings)
        self.upstream = Upstream(integration, settings, self)

    async def start(self) -> None:
        await self.upstream.start()

    async def close(self) -> None:
        await self.upstream.close()

    async def authorize(self, path: str, body: bytes) -> Mapping[str, str]:
        """Returns the headers that let one request through: credentials, and what the vendor wants beside them."""
        return {}

    async def exchange(
        self,
        path: str,
        body: Mapping[str, Any],
        request: pb.GenerateRequest,
        emitter: Emitter,
        reader_for: Callable[[Reply], ReplyReader[P]],
        framing: Framing[P],
    ) -> None:
        """Sends a request for an answer and emits the reply's events: one batch for each read."""
        data = msgspec.json.encode(body)
        headers = await self.authorize(path, data)
        accept = JSON if request.whole else framing.media_type
        async with self.upstream.post(path, data, headers, accept=accept, model=request.target.model) as reply:
            reader = reader_for(reply)
            if request.whole:
                await emitter.emit(reader.translate_whole(await reply.whole()))
            else:
                await self.relay(reply, reader, framing, emitter)

    async def relay(self, reply: Reply, reader: ReplyReader[P], framing: Framing[P], emitter: Emitter) -> None:
        """Emits the events of a stream until its terminal marker, or the end of its body."""
        decoder = framing.decoder()
        while chunk := await reply.read():
            emitter.touch()
            payloads = decoder.feed(chunk)
            if not payloads:
                continue
            batch = reader.translate(payloads)
            if batch.events or reader.alive:
                await emitter.emit(batch)
            if reader.done:
                await reply.finish()
                return
        rest = reader.ended()
        if rest is not None:
            await emitter.emit(rest)

    def words_of(self, body: Any, headers: Mapping[str, str]) -> tuple[str | None, ...]:
        """Returns what a refusal says by code and type, the most telling first; looked up in CODES."""
        return error_words(body)

    def reason_of(self, body: Any) -> Reason | None:
        """Returns the reason of an error body where the vendor documents no other sign than its text; else None."""
        return None

    def retry_after_of(self, body: Any) -> float | None:
        """Returns the seconds to wait that an error body asks for, where the vendor puts them there and not in a
        header."""
        return None

    def failure(self, error: Exception) -> SluiceError | None:
        if isinstance(error, VendorError):
            return vendor_failure(
                self.integration,
                status=None,
                words=self.words_of(error.body, {}),
                codes=self.CODES,
                reason=self.reason_of(error.body),
                seconds=self.retry_after_of(error.body),
            )
        if isinstance(error, EventTooLong):
            return protocol_error(self.integration, "an event of the stream is too long")
        return self.upstream.failure(error)
