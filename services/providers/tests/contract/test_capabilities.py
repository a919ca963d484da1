"""What `ListModels` claims is what happens: exercised, and compared with what the vendor's side received."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from sluice.chat.v1 import event_pb2, message_pb2, parameters_pb2, passage_pb2, tool_pb2
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_providers import options
from sluice_providers.registry import kind

from .asked import ASSISTANT, PARAMETERS, PNG, USER
from .conftest import Start
from .formats import FORMATS
from .subject import Outcome, Subject, asking, subject, text_of
from .upstream import Connection, Request, Upstream
from .wire_format import Format

Capability = model_pb2.Capability
_C = model_pb2.Capability
CLAIMS: Final = [
    pytest.param(
        FORMATS[name], capability, id=f"{name}-{Capability.Name(capability).removeprefix('CAPABILITY_').lower()}"
    )
    for name in sorted(FORMATS)
    for capability in sorted(frozenset[Any]().union(*FORMATS[name].capabilities.values()))
]


def holds(request: Request, text: str) -> bool:
    """Tells whether some text of a request's JSON contains a text."""

    def search(value: Any) -> bool:
        if isinstance(value, dict):
            return any(search(key) or search(inner) for key, inner in value.items())
        return any(map(search, value)) if isinstance(value, list) else isinstance(value, str) and text in value

    return search(request.json)


def deltas(events: list[event_pb2.Event], name: str) -> list[Any]:
    return [getattr(event, name) for event in events if event.WhichOneof("kind") == name]


async def streams(subject: Subject, wire: Format, model: str, upstream: Upstream) -> None:
    """Text is passed on while the vendor still writes."""
    frames = wire.text("Hello ", "there")
    outcome = Outcome()

    async def play(connection: Connection, _: Request) -> None:
        await connection.head(wire.media_type)
        for index, frame in enumerate(frames):
            await connection.chunk(frame)
            if index == len(wire.unfinished) - 1:
                await asyncio.wait_for(outcome.progress.wait(), 60)
        await connection.end()

    upstream.answer(play)
    await subject.outcome(asking("vendor", model), 60.0, outcome)
    assert outcome.error is None
    assert (outcome.text, outcome.ends) == ("Hello there", 1)
    assert len(outcome.batches) > 1
    assert wire.streams(upstream.last)


async def calls_tools(subject: Subject, wire: Format, model: str, upstream: Upstream) -> None:
    upstream.answer(wire.stream(wire.tools))
    schema = '{"type":"object","properties":{"zebra":{"type":"string","description":"stripes"}}}'
    tool = tool_pb2.Tool(
        function=tool_pb2.FunctionTool(name="weather", description="Looks out", parameters_json_schema=schema)
    )
    events = await subject.generate(asking("vendor", model, tools=[tool]))
    assert {delta.name for delta in deltas(events, "tool_call_delta")} >= {"weather", "time"}
    assert all(holds(upstream.last, word) for word in ("weather", "Looks out", "zebra", "stripes"))


async def answers_by_schema(subject: Subject, wire: Format, model: str, upstream: Upstream) -> None:
    upstream.answer(wire.stream(wire.text('{"zebra":', " true}")))
    schema = (
        '{"type":"object","properties":{"zebra":{"type":"boolean"}},"required":["zebra"],"additionalProperties":false}'
    )
    form = parameters_pb2.ResponseFormat(json_schema=parameters_pb2.JsonSchemaFormat(name="out", schema_json=schema))
    events = await subject.generate(asking("vendor", model, response_format=form))
    assert json.loads(text_of(events)) == {"zebra": True}
    assert holds(upstream.last, "zebra")


async def reads_images(subject: Subject, wire: Format, model: str, upstream: Upstream) -> None:
    upstream.answer(wire.stream(wire.text("A zebra")))
    request = asking("vendor", model)
    request.messages[0].parts.add().image.CopyFrom(message_pb2.Image(data=PNG, media_type="image/png"))
    assert text_of(await subject.generate(request)) == "A zebra"
    assert holds(upstream.last, base64.b64encode(PNG).decode())


async def reasons(subject: Subject, wire: Format, model: str, upstream: Upstream) -> None:
    assert wire.reasoning is not None, "the recorded replies have none"
    upstream.answer(wire.stream(wire.reasoning))
    events = await subject.generate(asking("vendor", model))
    assert "".join(delta.text for delta in deltas(events, "reasoning_delta")) == "Let me think."
    if "reasoning_effort" in wire.parameters:
        plain = upstream.last.json
        effort = parameters_pb2.GenerationParameters(reasoning_effort=PARAMETERS["reasoning_effort"])
        await subject.generate(asking("vendor", model, parameters=effort))
        assert upstream.last.json != plain


async def embeds(subject: Subject, wire: Format, model: str, upstream: Upstream) -> None:
    assert wire.embeddings is not None, "the recorded replies have none"
    upstream.answer(wire.embeddings)
    target = asking("vendor", model).target
    reply = await subject.call("Embed", pb.EmbedRequest(target=target, texts=["zebra", "ox"]))
    assert [list(row.values) for row in reply.embeddings] == [[5, 0.5], [2, 0.5]]
    assert any(holds(request, "zebra") for request in upstream.requests)


async def continues(subject: Subject, wire: Format, model: str, upstream: Upstream) -> None:
    upstream.answer(wire.stream(wire.text(" zebra")))
    request = asking("vendor", model)
    request.messages.add(role=ASSISTANT, parts=[message_pb2.Part(text="It is a striped")])
    assert text_of(await subject.generate(request)) == " zebra"
    assert holds(upstream.last, "It is a striped")


async def cites(subject: Subject, wire: Format, model: str, upstream: Upstream) -> None:
    assert wire.cited is not None, "the recorded replies have none"
    upstream.answer(wire.stream(wire.cited))
    passage = passage_pb2.Passage(id="p7", path="src/a.py", start_line=3, end_line=3, text="A zebra has stripes")
    events = await subject.generate(asking("vendor", model, passages=[passage], grounding_instruction="Cite."))
    assert [delta.passage_id for delta in deltas(events, "citation_delta")] == ["p7"]
    assert holds(upstream.last, "A zebra has stripes")


Exercise = Callable[[Subject, Format, str, Upstream], Awaitable[None]]
EXERCISES: Final[dict[int, Exercise]] = {
    _C.CAPABILITY_STREAMING: streams,
    _C.CAPABILITY_TOOLS: calls_tools,
    _C.CAPABILITY_STRUCTURED_OUTPUT: answers_by_schema,
    _C.CAPABILITY_IMAGES: reads_images,
    _C.CAPABILITY_REASONING: reasons,
    _C.CAPABILITY_EMBEDDINGS: embeds,
    _C.CAPABILITY_ASSISTANT_PREFILL: continues,
    _C.CAPABILITY_CITATIONS: cites,
}


@pytest.mark.parametrize(("wire", "capability"), CLAIMS)
async def test_what_is_claimed_is_done(wire: Format, capability: int, start: Start, upstream: Upstream) -> None:
    upstream.answer(wire.models)
    async with start() as subject:
        models = (await subject.call("ListModels", pb.ListModelsRequest())).models
        claiming = [model.id for model in models if capability in model.capabilities]
        assert claiming
        for model in claiming:
            upstream.requests.clear()
            await EXERCISES[capability](subject, wire, model, upstream)


_SCHEMA_FORM = parameters_pb2.ResponseFormat(
    json_schema=parameters_pb2.JsonSchemaFormat(name="out", schema_json='{"type":"object","properties":{}}')
)
OPTION_OF: Final[dict[int, tuple[str, dict[str, Any]]]] = {
    _C.CAPABILITY_TOOLS: ("tools", {"tools": [tool_pb2.Tool(function=tool_pb2.FunctionTool(name="f"))]}),
    _C.CAPABILITY_STRUCTURED_OUTPUT: ("response_format.json_schema", {"response_format": _SCHEMA_FORM}),
    _C.CAPABILITY_IMAGES: (
        "images",
        {
            "messages": [
                message_pb2.Message(
                    role=USER, parts=[message_pb2.Part(image=message_pb2.Image(data=PNG, media_type="image/png"))]
                )
            ]
        },
    ),
}


@pytest.mark.parametrize("capability", list(OPTION_OF), ids=lambda value: Capability.Name(value).lower())
async def test_what_is_refused_is_claimed_of_no_model(
    capability: int, start: Start, wire: Format, upstream: Upstream
) -> None:
    option, fields = OPTION_OF[capability]
    async with start() as subject:
        upstream.answer(wire.models)
        models = (await subject.call("ListModels", pb.ListModelsRequest())).models
        upstream.answer(wire.stream(wire.text("Hello")))
        upstream.requests.clear()
        for model in models:
            request = asking("vendor", model.id)
            if "messages" in fields:
                del request.messages[:]
            request.MergeFrom(pb.GenerateRequest(**fields))
            before = len(upstream.requests)
            error = (await subject.outcome(request)).error
            if error is not None:
                assert error.reason_name == "UNSUPPORTED_OPTION"
                assert error.metadata["option"] == option
                assert capability not in model.capabilities
            assert len(upstream.requests) == before + (error is None)


def test_the_parameters_that_an_adapter_honours_are_those_that_were_seen(wire: Format) -> None:
    """`test_every_parameter_is_sent_or_refused_by_name` sees them in what the vendor received."""
    honoured = {name for name in kind(wire.adapter).adapter.OPTIONS if name in options.PARAMETERS}
    assert wire.parameters <= honoured
    assert {
        name for other in FORMATS.values() if other.adapter == wire.adapter for name in other.parameters
    } == honoured


@pytest.mark.parametrize("adapter", ["extractive", "scripted"])
async def test_adapters_without_a_vendor_do_what_they_claim(adapter: str, transport: str, tmp_path: Path) -> None:
    passage = passage_pb2.Passage(id="p1", path="a.md", start_line=1, end_line=1, text="Zebras have stripes.")
    async with subject(transport, "here", {"adapter": adapter}, tmp_path) as running:
        models = (await running.call("ListModels", pb.ListModelsRequest())).models
        assert models
        for model in models:
            if _C.CAPABILITY_EMBEDDINGS in model.capabilities:
                target = asking("here", model.id).target
                reply = await running.call("Embed", pb.EmbedRequest(target=target, texts=["zebra", "ox"]))
                assert len(reply.embeddings) == 2
            if adapter == "extractive" and _C.CAPABILITY_CITATIONS in model.capabilities:
                request = asking("here", model.id, "Do zebras have stripes?", passages=[passage])
                events = await running.generate(request)
                assert "p1" in {delta.passage_id for delta in deltas(events, "citation_delta")}
