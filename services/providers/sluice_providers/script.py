"""The language of the `scripted` adapter; docs/scripted.md tells it to users.

A script is a list of steps and a few settings. It is written out as JSON or YAML, or named in short by the model's
id: `text?tokens=200&delay_ms=10&fault=cut@20`. The short forms are turned into steps here, so there is one meaning.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeAlias
from urllib.parse import parse_qsl

import msgspec

from sluice.chat.v1 import message_pb2, passage_pb2, tool_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb

Finish = Literal["stop", "length", "tool_calls", "content_filter"]
FAULTS: Final = frozenset({"cut", "stall", "crash", "empty", "unstarted", "restart", "foreign", "double", "trailing"})
"""Faults that are no error reason; see docs/scripted.md."""
_TEXT: Final = (
    "the mesh answers every question with one typed stream of events and each of them has its number so that a "
    "client which lost its connection may ask for the rest and miss nothing at all"
)
_WORDS: Final = tuple(_TEXT.split())

# A script is anybody's who may ask, and its words are made before they are sent.
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
_Pause: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=86_400_000)]
_Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class ScriptError(ValueError):
    """A script cannot be read; the message says what is wrong with it."""


class ToolStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call of a tool."""

    name: str = ""
    """Empty: the first tool offered, else `tool`."""
    id: str = ""
    """Empty: `call_1`, `call_2`, …"""
    arguments: Any = {}
    """Any JSON value; it leaves as JSON text."""
    input: str | None = None
    """Free text of a custom tool, instead of arguments."""
    fragments: _Count = 2
    """Into how many pieces the input is cut."""


class CiteStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A claim that a passage supports the text of the step before."""

    passage: str
    start_line: int | None = None
    end_line: int | None = None


class UsageSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the made-up vendor reports. Unset counts follow the script."""

    input: int | None = None
    cached: int = 0
    output: int | None = None
    reasoning: int | None = None


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step; exactly one field is set."""

    text: str | None = None
    """Text, sent word by word. Steps of text go on in one block until another kind of step stands between."""
    reasoning: str | None = None
    """Reasoning, sent word by word."""
    tool: ToolStep | None = None
    """A call of a tool. Tool steps next to each other are parallel: their fragments alternate."""
    cite: CiteStep | None = None
    """A native citation of the text before."""
    wait_ms: _Pause | None = None
    """A pause."""
    fault: str | None = None
    """A fault without `@`, at this place."""


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one attempt plays."""

    steps: tuple[Step, ...] = ()
    ttft_ms: _Pause = 0.0
    """Pause before the first content."""
    delay_ms: _Pause = 0.0
    """Pause between batches after that."""
    batch: int = 1
    """Events in one message."""
    finish: Finish | None = None
    """Unset: `tool_calls` if the last step is a tool, else `stop`."""
    usage: UsageSpec | Literal["report", "early", "none"] = "report"
    """`early` reports it behind `Started` too; `none` never does, so that it is estimated."""
    fault: str | None = None
    """`KIND@N`: the fault KIND after N events of content. Without `@N`: before the
    first, and if it is an error reason before `Started`."""
    retry_after_s: _Seconds | None = None
    """What an error reason as fault says about when to come back."""
    times: _Count | None = None
    """Only the first so many attempts with this script meet the fault. Unset: all."""

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError("batch must be at least 1")
        if self.fault is not None:
            parse_fault(self.fault)
        for step in self.steps:
            fields = [name for name in step.__struct_fields__ if getattr(step, name) is not None]
            if len(fields) != 1:
                raise ValueError(f"a step sets exactly one of {', '.join(step.__struct_fields__)}")
            if step.fault is not None:
                parse_fault(step.fault)


def parse_fault(text: str) -> tuple[str, int]:
    """Returns the kind of a fault (one of FAULTS, or the name of an ErrorReason) and after how many events it strikes.

    An error reason without `@N` strikes before `Started`, as a vendor's HTTP status would: -1. Raises ValueError.
    """
    kind, at, number = text.partition("@")
    if at and not number.isdigit():
        raise ValueError(f"fault {text}: expected KIND@N")
    if kind not in FAULTS and f"ERROR_REASON_{kind}" not in ErrorReason.keys():  # noqa: SIM118 - an enum wrapper, no dict
        raise ValueError(f"no fault {kind}; there are {', '.join(sorted(FAULTS))} and the names of ErrorReason")
    return kind, int(number) if at else 0 if kind in FAULTS else -1


class _Short(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the short forms."""

    say: str | None = None
    tokens: _Count = 12
    reasoning: _Count = 0
    calls: _Count = 1
    name: str = ""
    args: str = "{}"
    fragments: _Count = 2
    value: str | None = None
    native: bool = False
    ttft_ms: _Pause = 0.0
    delay_ms: _Pause = 0.0
    batch: int = 1
    finish: Finish | None = None
    usage: Literal["report", "early", "none"] = "report"
    fault: str | None = None
    retry_after_s: _Seconds | None = None
    times: _Count | None = None


SHORT_FORMS: Final[Mapping[str, str]] = {
    "echo": "Repeats the last user message",
    "text": "Writes so many words (tokens=), or what say= says",
    "continue": "Writes as text does, on from where the assistant's last message ends",
    "reason": "Reasons first, then writes",
    "tool": "Calls the tools it is offered",
    "json": "Answers with JSON: value=, or an instance of the schema asked for",
    "cite": "Cites every passage it is given; native=true by CitationDelta instead of markers",
    "script": "Plays the script in the last user message, written as JSON",
}
"""Models that need no configuration, with a description."""


def script_for(model: str, named: Mapping[str, Script], request: pb.GenerateRequest) -> Script | None:
    """Returns the script that a model's id stands for; None if it stands for none. Raises ScriptError."""
    if model in named:
        return named[model]
    form, _, query = model.partition("?")
    if form not in SHORT_FORMS:
        return None
    if form == "script":
        return _decode_script(last_user_text(request))
    short = _parse_query(query)
    return Script(
        steps=tuple(_steps(form, short, request)),
        ttft_ms=short.ttft_ms,
        delay_ms=short.delay_ms,
        batch=short.batch,
        finish=short.finish,
        usage=short.usage,
        fault=short.fault,
        retry_after_s=short.retry_after_s,
        times=short.times,
    )


def _decode_script(text: str) -> Script:
    try:
        return msgspec.json.decode(text.encode(), type=Script)
    except msgspec.DecodeError as error:
        raise ScriptError(f"the last user message is no script: {error}") from None
    except RecursionError:
        raise ScriptError("the last user message is no script: it is nested too deeply") from None


@functools.lru_cache(maxsize=256)
def _parse_query(query: str) -> _Short:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        short = msgspec.convert(dict(pairs), _Short, strict=False)
        Script(batch=short.batch, fault=short.fault)
    except (ValueError, msgspec.ValidationError) as error:
        raise ScriptError(str(error)) from None
    return short


def _steps(form: str, short: _Short, request: pb.GenerateRequest) -> list[Step]:
    steps: list[Step] = []
    reasoning = short.reasoning or (short.tokens if form == "reason" else 0)
    if reasoning:
        steps.append(Step(reasoning=words(reasoning)))
    if form == "echo":
        steps.append(Step(text=last_user_text(request)))
    elif form == "continue":
        text = words(short.tokens)
        steps.append(Step(text=text.removeprefix(started_text(request))))
    elif form == "tool":
        offered = [tool_name(tool) for tool in request.tools] or ["tool"]
        for index in range(short.calls):
            name = short.name or offered[index % len(offered)]
            steps.append(Step(tool=ToolStep(name=name, arguments=_json(short.args), fragments=short.fragments)))
    elif form == "json":
        schema = _json(request.response_format.json_schema.schema_json or "{}")
        value = _json(short.value) if short.value is not None else instance_of(schema)
        steps.append(Step(text=json.dumps(value, ensure_ascii=False)))
    elif form == "cite":
        for passage in request.passages:
            steps.extend(_cite(passage, native=short.native))
        if not request.passages:
            steps.append(Step(text="There are no passages."))
    else:
        steps.append(Step(text=words(short.tokens) if short.say is None else short.say))
    return steps


def _cite(passage: passage_pb2.Passage, *, native: bool) -> list[Step]:
    line = next((line.strip() for line in passage.text.splitlines() if line.strip()), "")
    if not native:
        return [Step(text=f"{passage.path} says: {line} [{passage.id}]\n")]
    return [
        Step(text=f"{passage.path} says: {line}\n"),
        Step(cite=CiteStep(passage.id, passage.start_line, passage.start_line)),
    ]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ScriptError("args, value and schemas are JSON") from None


def instance_of(schema: Any) -> Any:
    """Returns a small instance of a JSON Schema: the first choice, the least items, required properties alone."""
    if not isinstance(schema, dict):
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return instance_of(schema[key][0])
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0] if kind else "object"
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: instance_of(properties.get(name, {"type": "string"})) for name in schema.get("required", ())}
    if kind == "array":
        return [instance_of(schema.get("items", {"type": "string"})) for _ in range(schema.get("minItems", 0))]
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return {"boolean": False, "string": "text"}.get(kind)


def words(count: int) -> str:
    """Returns so many words, always the same."""
    return " ".join(_WORDS[index % len(_WORDS)] for index in range(count))


def last_user_text(request: pb.GenerateRequest) -> str:
    """Returns the text of the last user message."""
    for message in reversed(request.messages):
        if message.role == 1:
            return "\n".join(part.text for part in message.parts if part.WhichOneof("kind") == "text")
    return ""


def started_text(request: pb.GenerateRequest) -> str:
    """Returns the text that the assistant has begun with: the last message, if it is the assistant's own."""
    last = request.messages[-1]
    if last.role != message_pb2.MESSAGE_ROLE_ASSISTANT:
        return ""
    return "".join(part.text for part in last.parts if part.WhichOneof("kind") == "text")


def tool_name(tool: tool_pb2.Tool) -> str:
    """Returns the name of a tool of either kind."""
    return tool.custom.name if tool.WhichOneof("kind") == "custom" else tool.function.name


def pieces(text: str, count: int) -> Sequence[str]:
    """Cuts a text into at most so many pieces of about the same length."""
    size = max(1, -(-len(text) // max(1, count)))
    return [text[index : index + size] for index in range(0, len(text), size)] or [""]
