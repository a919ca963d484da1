"""What the Converse interface writes: the parts of its replies that are read."""

from typing import Any

import msgspec


class Camel(msgspec.Struct, gc=False, rename="camel"):
    """The vendor writes its names in camel case."""


class Result(Camel):
    search_result_index: int = -1
    start: int = 0
    end: int = 0


class Location(Camel):
    search_result_location: Result | None = None


class Citation(Camel):
    location: Location | None = None


class Input(Camel):
    input: str = ""


class ReasoningDelta(Camel):
    text: str | None = None
    signature: str | None = None
    redacted_content: bytes | None = None


class Delta(Camel):
    text: str | None = None
    tool_use: Input | None = None
    reasoning_content: ReasoningDelta | None = None
    citation: Citation | None = None


class Call(Camel):
    tool_use_id: str = ""
    name: str = ""
    type: str = ""
    input: Any = None


class Start(Camel):
    tool_use: Call | None = None


class Usage(Camel):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None


class Event(Camel):
    """Any message of the stream."""

    content_block_index: int = 0
    delta: Delta | None = None
    start: Start | None = None
    stop_reason: str = ""
    usage: Usage | None = None


class ReasoningText(Camel):
    text: str = ""
    signature: str = ""


class Reasoning(Camel):
    reasoning_text: ReasoningText | None = None
    redacted_content: bytes | None = None


class Generated(Camel):
    text: str = ""


class Cited(Camel):
    content: tuple[Generated, ...] = ()
    citations: tuple[Citation, ...] = ()


class Content(Camel):
    text: str | None = None
    tool_use: Call | None = None
    reasoning_content: Reasoning | None = None
    citations_content: Cited | None = None


class Message(Camel):
    content: tuple[Content, ...] = ()


class Output(Camel):
    message: Message | None = None


class Reply(Camel):
    output: Output | None = None
    stop_reason: str = ""
    usage: Usage | None = None
