"""What the suite knows of one wire format: recorded replies, and what its refusals mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sluice.provider.v1 import model_pb2

from .upstream import Play, Request, plain, stream

KEY = "sk-test-3f9a7c51d2e84b60"
"""The credential of every integration under test."""


class Frames(Protocol):
    """Makes the frames of a streamed answer whose text comes in the given pieces."""

    def __call__(self, *pieces: str) -> list[bytes]: ...


class Finished(Protocol):
    """The same, ending for a reason in the vendor's word."""

    def __call__(self, reason: str, *pieces: str) -> list[bytes]: ...


class Calls(Protocol):
    """Makes the frames of an answer that is nothing but tool calls.

    `calls` are their ids and names. `pieces` are fragments of their arguments in the order in which they arrive, each
    with the number of its call; every call has one at least, and calls begin in their order. A format whose calls
    cannot be interleaved sends the pieces of each call together; see `joined`.
    """

    def __call__(self, calls: Sequence[tuple[str, str]], pieces: Sequence[tuple[int, str]]) -> list[bytes]: ...


def joined(calls: Sequence[tuple[str, str]], pieces: Sequence[tuple[int, str]]) -> list[tuple[str, str, Any]]:
    """Returns id, name and arguments of each call, for a format that sends calls whole."""
    texts = ["".join(piece for owner, piece in pieces if owner == number) for number in range(len(calls))]
    return [(id, name, json.loads(text)) for (id, name), text in zip(calls, texts, strict=True)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Format:
    """One vendor's format. A frame is what the vendor writes for one event of its stream."""

    name: str
    """Its name in test ids."""
    adapter: str
    """What the integration's section names: a row of the registry, or a vendor."""
    model: str
    settings: Callable[[str], Mapping[str, Any]]
    """Returns the settings of an integration that speaks to the server at an address, with KEY."""
    path: str
    """Where a stream is asked for."""
    whole_path: str = ""
    """Where a whole reply is asked for. Empty: the same."""
    streams: Callable[[Request], bool]
    """Tells whether a request asks for a stream."""
    media_type: str = "text/event-stream"
    """What a stream says it is."""
    request_id_header: str = ""
    """Where the vendor's id of the request stands. Empty: inside the reply, if anywhere."""
    key_variable: str | None
    """The variable that a missing credential is named by. None: it needs none."""

    text: Frames
    finished: Finished
    finish_words: Mapping[str, str]
    """The vendor's words for `stop`, `length` and `content_filter`."""
    opening: bytes
    """A frame that may come first and holds no content."""
    tools: list[bytes]
    """Two interleaved calls where the format can: call_a weather {"city":"Aarhus"}, call_b time {"zone":"CET"}."""
    calls: Calls | None = None
    """Any number of parallel calls. None: the suite does not know how."""
    reasoning: list[bytes] | None
    """Reasoning "Let me think." in two pieces, then the text "Yes.". None: the format has none."""
    cited: list[bytes] | None = None
    """The text "Yes.", in which the first passage of the request is cited natively. None: the format has none."""
    reasoning_state: bytes = b""
    """The sealed state that comes with it."""
    whole: bytes
    """The reply to text("Hello ", "there"), in one piece."""
    whole_tools: bytes
    """The text "Looking." and call c1 weather {"city":"Aarhus"}, in one piece."""
    without_usage: list[bytes]
    """text("Hello there") without the vendor's count of tokens."""
    usage: tuple[int, int, int, int] = (19, 4, 10, 3)
    """Input, cached, output and reasoning tokens of all recorded replies."""
    early_usage: bool = False
    """Whether the count of input stands at the start of the stream, too."""
    noise: list[bytes] = field(default_factory=list)
    """Frames that may come between any two and mean nothing."""
    after_marker: int = 0
    """Frames of `text` behind the terminal marker."""
    made_up_ids: bool = False
    """Whether the format has no ids of tool calls, so that the adapter makes them."""

    refusal: Callable[..., Play]
    """`refusal(status, kind, code=None, message="no", **headers)`: an error of the vendor, by HTTP status."""
    error_frame: Callable[..., bytes]
    """`error_frame(message="no")`: an error inside a stream, without a more telling code."""
    telling_error: tuple[bytes, str] | None
    """An error inside a stream with a telling code, and its reason. None: the format has none."""
    statuses: tuple[tuple[int, str, str | None, str], ...]
    """Status, the vendor's type and code, the reason."""
    too_long: Play
    """How the vendor says that a prompt does not fit."""
    garbled: Mapping[str, bytes]
    """Frames that break the format, by what is wrong with them."""

    models: Play
    """Lists models: at least `a` and `b`."""
    model_facts: Mapping[str, Mapping[str, Any]]
    """What must be known of them: id → field of `Model` → value."""
    capabilities: Mapping[str, frozenset[model_pb2.Capability.ValueType]]
    """Which capabilities must be claimed for them: all, and no more."""
    parameters: frozenset[str]
    """The GenerationParameters that the format carries."""
    vendor_option: tuple[str, Any] | None
    """A name and value that `vendor_options` may hold."""
    refuses: frozenset[str] = frozenset()
    """Of the other options, those that the format cannot carry, by their names in `sluice_providers.options`."""
    embeddings: Play | None
    """Answers a request for embeddings with [length of the text, 0.5] for each. None: the vendor has none."""
    exact_count: Play | None
    """Answers a count of tokens with 14. None: the vendor has none."""
    version: tuple[Play, str] | None = None
    """Answers a probe, and the version that it tells. None: a probe lists models, and there is no version."""

    def __repr__(self) -> str:
        return f"<format {self.name}>"

    def stream(self, frames: list[bytes], **headers: str) -> Play:
        """Answers with a whole stream, each frame in a chunk and a write of its own."""
        return stream(frames, self.media_type, **headers)

    def reply(self, body: bytes) -> Play:
        """Answers with a whole reply."""
        return plain(body)

    @property
    def unfinished(self) -> list[bytes]:
        """Text whose terminal marker is missing."""
        return self.text("Hello ", "there")[: -1 - self.after_marker]

    @property
    def truncated(self) -> range:
        """How many frames of `text` may be there without the terminal marker being among them."""
        return range(len(self.text("Hello ", "there", "!")) - self.after_marker)
