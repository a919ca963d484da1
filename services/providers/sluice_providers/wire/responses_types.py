"""What of the Responses interface's replies is read: the fields that are needed, and nothing else of them.

Items stay as they came until their kind is known: others than those that are read may hold anything.
"""

from typing import Any, Final

import msgspec


class _InputDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """Tokens as the vendor counts them."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class Response(msgspec.Struct, gc=False):
    """A response, whole or inside an event."""

    id: str | None = None
    model: str | None = None
    status: str | None = None
    error: Any = None
    incomplete_details: _Incomplete | None = None
    usage: Usage | None = None
    output: msgspec.Raw = msgspec.Raw(b"[]")


class Event(msgspec.Struct, gc=False):
    """An event of a stream. Every kind has some of the fields."""

    type: str = ""
    sequence_number: int | None = None
    output_index: int = 0
    summary_index: int = 0
    content_index: int = 0
    delta: Any = None  # text in every event that is read; what the rest hold is nobody's business
    item: msgspec.Raw = msgspec.Raw(b"{}")
    response: Response | None = None
    error: Any = None
    code: Any = None


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    text: str = ""
    refusal: str = ""


class Kind(msgspec.Struct, gc=False):
    """What tells one kind of item from another."""

    type: str = ""


class Item(msgspec.Struct, gc=False):
    """An item of one of the kinds that are read."""

    id: str | None = None
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    input: str = ""
    encrypted_content: str | None = None
    summary: tuple[_Part, ...] | None = None
    content: tuple[_Part, ...] | None = None


decode_event: Final = msgspec.json.Decoder(Event).decode
decode_response: Final = msgspec.json.Decoder(Response).decode
decode_output: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
decode_kind: Final = msgspec.json.Decoder(Kind).decode
decode_item: Final = msgspec.json.Decoder(Item).decode
