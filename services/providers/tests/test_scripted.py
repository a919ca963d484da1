"""The script language does what docs/scripted.md says."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sluice.chat.v1 import message_pb2, parameters_pb2, passage_pb2, tool_pb2, usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError
from sluice_providers.script import SHORT_FORMS, instance_of, words

from .contract.subject import Subject, asking, kinds, subject, text_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Subject]:
    scripts = {
        "greeting": {"steps": [{"text": "Hello "}, {"wait_ms": 1}, {"text": "there"}], "finish": "length"},
        "cited": {"steps": [{"text": "På "}, {"text": "dansk"}, {"cite": {"passage": "p1", "start_line": 3}}]},
        "mixed": {
            "steps": [
                {"reasoning": "Hm."},
                {"tool": {"name": "a", "arguments": {"x": 1}, "fragments": 3}},
                {"tool": {"name": "b", "input": "free text", "id": "mine"}},
                {"text": "Done."},
            ],
            "usage": {"input": 100, "cached": 60, "output": 7, "reasoning": 2},
        },
        "late": {"steps": [{"text": "a b c"}, {"fault": "UPSTREAM_OVERLOADED"}]},
    }
    settings = {"adapter": "scripted", "scripts": scripts, "refuse": ["seed"]}
    async with subject("colocated", "s", settings, tmp_path) as running:
        yield running


async def failing(running: Subject, model: str) -> SluiceError:
    with pytest.raises(SluiceError) as caught:
        await running.generate(asking("s", model))
    return caught.value


async def test_echo_and_text(scripted: Subject) -> None:
    assert text_of(await scripted.generate(asking("s", "echo", "  Say\n\nthis  "))) == "  Say\n\nthis  "
    assert text_of(await scripted.generate(asking("s", "text?tokens=30"))) == words(30)
    assert text_of(await scripted.generate(asking("s", "text?say=a+b%26c"))) == "a b&c"


async def test_the_same_script_plays_the_same(scripted: Subject) -> None:
    request = asking("s", "reason?tokens=5&reasoning=4")
    first = await scripted.generate(request)
    assert await scripted.generate(request) == first
    assert kinds(first) == ["started", "reasoning_delta", "text_delta", "completed"]
    usage = first[-1].completed.usage
    assert (usage.output_tokens, usage.reasoning_tokens) == (9, 4)


async def test_batches_and_pace(scripted: Subject) -> None:
    await scripted.generate(asking("s", "text?tokens=10&batch=4"))
    assert [len(batch.events) for batch in scripted.batches] == [1, 4, 4, 3]
    began = time.perf_counter()
    await scripted.generate(asking("s", "text?tokens=3&ttft_ms=50&delay_ms=20"))
    assert time.perf_counter() - began > 0.085, "pauses are real"


async def test_tools(scripted: Subject) -> None:
    tools = [tool_pb2.Tool(function=tool_pb2.FunctionTool(name=name)) for name in ("a", "b")]
    model = 'tool?calls=3&args={"x":"long+enough"}&fragments=4'
    events = await scripted.generate(asking("s", model, tools=tools))
    calls: dict[int, list[str]] = {}
    for event in events:
        if event.HasField("tool_call_delta"):
            delta = event.tool_call_delta
            row = calls.setdefault(delta.block_index, [delta.id, delta.name, ""])
            row[2] += delta.arguments_json
    assert list(calls.values()) == [[f"call_{n + 1}", "aba"[n], '{"x": "long enough"}'] for n in range(3)]
    assert events[-1].completed.finish_reason == usage_pb2.FINISH_REASON_TOOL_CALLS


async def test_json_follows_the_schema(scripted: Subject) -> None:
    schema = {
        "type": "object",
        "required": ["name", "size", "tags", "kind"],
        "properties": {
            "name": {"type": "string"},
            "size": {"type": "integer", "minimum": 2},
            "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
            "kind": {"enum": ["x", "y"]},
            "extra": {"type": "string"},
        },
    }
    assert instance_of(schema) == {"name": "text", "size": 2, "tags": [False, False], "kind": "x"}
    form = parameters_pb2.ResponseFormat()
    form.json_schema.name = "n"
    form.json_schema.schema_json = json.dumps(schema)
    answer = text_of(await scripted.generate(asking("s", "json", response_format=form)))
    assert json.loads(answer) == instance_of(schema)
    assert text_of(await scripted.generate(asking("s", "json?value=[1,2]"))) == "[1, 2]"


async def test_citations_by_marker_and_natively(scripted: Subject) -> None:
    passages = [
        passage_pb2.Passage(id=f"p{n}", path=f"{n}.py", start_line=5, end_line=6, text=f"\n  line {n} på\nmore")
        for n in (1, 2)
    ]
    marked = await scripted.generate(asking("s", "cite", passages=passages))
    assert text_of(marked) == "1.py says: line 1 på [p1]\n2.py says: line 2 på [p2]\n"
    native = await scripted.generate(asking("s", "cite?native=true", passages=passages))
    data = text_of(native).encode()
    claims = [event.citation_delta for event in native if event.HasField("citation_delta")]
    assert [(claim.passage_id, data[claim.answer_span.start : claim.answer_span.end].decode()) for claim in claims] == [
        ("p1", "1.py says: line 1 på\n"),
        ("p2", "2.py says: line 2 på\n"),
    ]


async def test_named_scripts(scripted: Subject) -> None:
    events = await scripted.generate(asking("s", "greeting"))
    assert text_of(events) == "Hello there"
    assert events[-1].completed.finish_reason == usage_pb2.FINISH_REASON_LENGTH
    events = await scripted.generate(asking("s", "cited"))
    (claim,) = [event.citation_delta for event in events if event.HasField("citation_delta")]
    assert (claim.answer_span.start, claim.answer_span.end, claim.start_line) == (4, 9, 3)
    events = await scripted.generate(asking("s", "mixed"))
    blocks = [
        (event.tool_call_delta.block_index, event.tool_call_delta.id, event.tool_call_delta.input_text)
        for event in events
        if event.HasField("tool_call_delta")
    ]
    assert {block for block, _, _ in blocks} == {1, 2}
    assert "".join(text for _, _, text in blocks) == "free text"
    assert text_of(events, 3) == "Done."
    usage = events[-1].completed.usage
    assert (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens) == (
        100,
        60,
        7,
        2,
    )


async def test_a_script_in_the_message(scripted: Subject) -> None:
    text = json.dumps({"steps": [{"text": "from the message"}], "batch": 9})
    assert text_of(await scripted.generate(asking("s", "script", text))) == "from the message"
    for bad in (
        "no json",
        '{"steps": [{}]}',
        '{"steps": [{"text": "a", "wait_ms": 1}]}',
        '{"nope": 1}',
        '{"batch": 0}',
        '{"delay_ms": -1}',
        '{"steps": [{"tool": {"arguments": ' + "[" * 100_000,
        '{"steps": [{"wait_ms": 1e300}]}',
    ):
        with pytest.raises(SluiceError) as caught:
            await scripted.generate(asking("s", "script", bad))
        assert caught.value.reason_name == "INVALID_REQUEST"


@pytest.mark.parametrize("query", ["tokens=-1", "tokens=1000000000", "ttft_ms=nan", "calls=9999999", "times=-2"])
async def test_a_number_out_of_bounds(scripted: Subject, query: str) -> None:
    with pytest.raises(SluiceError) as caught:
        await scripted.generate(asking("s", f"text?{query}"))
    assert caught.value.reason_name == "INVALID_REQUEST"
    assert query.partition("=")[0] in caught.value.message


@pytest.mark.parametrize(
    ("fault", "reason", "passed"),
    [
        ("cut@2", "UPSTREAM_PROTOCOL_ERROR", 3),
        ("cut", "UPSTREAM_PROTOCOL_ERROR", 1),
        ("cut@99", "UPSTREAM_PROTOCOL_ERROR", 13),
        ("crash@1", "INTERNAL", 2),
        ("empty", "EMPTY_RESPONSE", 2),
        ("unstarted", "UPSTREAM_PROTOCOL_ERROR", 0),
        ("restart@1", "UPSTREAM_PROTOCOL_ERROR", 2),
        ("foreign@1", "UPSTREAM_PROTOCOL_ERROR", 2),
        ("double", "UPSTREAM_PROTOCOL_ERROR", 13),
        ("trailing", "UPSTREAM_PROTOCOL_ERROR", 13),
        ("UPSTREAM_OVERLOADED", "UPSTREAM_OVERLOADED", 0),
        ("UPSTREAM_OVERLOADED@0", "UPSTREAM_OVERLOADED", 1),
        ("CONTEXT_TOO_LONG@3", "CONTEXT_TOO_LONG", 4),
    ],
)
async def test_faults(fault: str, reason: str, passed: int, scripted: Subject) -> None:
    error = await failing(scripted, f"text?fault={fault}")
    assert error.reason_name == reason
    assert len(scripted.events) == passed
    assert not any(event.HasField("completed") for event in scripted.events)


async def test_a_fault_that_passes(scripted: Subject) -> None:
    model = "text?fault=UPSTREAM_RATE_LIMITED&times=2&retry_after_s=1.5"
    for _ in range(2):
        assert (await failing(scripted, model)).retry_after == 1.5
    assert text_of(await scripted.generate(asking("s", model)))


async def test_a_fault_as_a_step(scripted: Subject) -> None:
    assert (await failing(scripted, "late")).reason_name == "UPSTREAM_OVERLOADED"
    assert text_of(scripted.events) == "a b c"


async def test_limits_and_stops_are_honoured(scripted: Subject) -> None:
    request = asking("s", "text?tokens=50")
    request.parameters.max_output_tokens = 4
    events = await scripted.generate(request)
    assert text_of(events).split() == words(4).split()
    assert events[-1].completed.finish_reason == usage_pb2.FINISH_REASON_LENGTH
    request = asking("s", "echo", "one two END three")
    request.parameters.stop.extend(["END", "nope"])
    assert text_of(await scripted.generate(request)) == "one two "


async def test_usage_early_and_never(scripted: Subject) -> None:
    assert kinds(await scripted.generate(asking("s", "text?usage=early")))[1] == "usage_update"
    usage = (await scripted.generate(asking("s", "text?usage=none")))[-1].completed.usage
    assert usage.source == usage_pb2.USAGE_SOURCE_ESTIMATED


async def test_an_option_that_is_refused_by_configuration(scripted: Subject) -> None:
    request = asking("s", "echo")
    request.parameters.seed = 3
    with pytest.raises(SluiceError) as caught:
        await scripted.generate(request)
    assert caught.value.metadata["option"] == "seed"


async def test_missing_settings_can_be_pretended(tmp_path: Path) -> None:
    async with subject("colocated", "s", {"adapter": "scripted", "missing": ["SOME_KEY"]}, tmp_path) as running:
        assert (await failing(running, "echo")).metadata["setting"] == "SOME_KEY"
        status = await running.call("GetStatus", pb.GetStatusRequest())
        assert list(status.missing_settings) == ["SOME_KEY"]


async def test_embeddings_know_kindred_texts(scripted: Subject) -> None:
    texts = [
        "How are retries of failed requests limited?",
        "def limit_retries(request): retry failed requests at most three times",
        "The colour of the garden fence is green",
    ]
    request = pb.EmbedRequest(target=asking("s", "embed").target, texts=texts)
    reply = await scripted.call("Embed", request)
    vectors = [list(row.values) for row in reply.embeddings]
    assert all(abs(sum(value * value for value in vector) - 1) < 1e-5 for vector in vectors)
    near, far = (sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors[1:])
    assert near > 0.3 > far
    assert reply == await scripted.call("Embed", request)
    request.dimensions = 32
    assert {len(row.values) for row in (await scripted.call("Embed", request)).embeddings} == {32}


def test_the_guide_names_every_form_fault_and_parameter() -> None:
    from sluice_providers.script import FAULTS, Script, Step, ToolStep, _Short

    guide = (ROOT / "docs" / "scripted.md").read_text(encoding="utf-8")
    known: list[str] = [*SHORT_FORMS, *FAULTS]
    for kind in (Script, Step, ToolStep, _Short):
        known += kind.__struct_fields__
    missing = [name for name in known if f"`{name}" not in guide]
    assert not missing


async def test_it_goes_on_where_the_assistant_began(scripted: Subject) -> None:
    request = asking("s", "continue?tokens=5")
    assert request.messages[-1].role == message_pb2.MESSAGE_ROLE_USER
    began = message_pb2.Message(role=message_pb2.MESSAGE_ROLE_ASSISTANT, parts=[message_pb2.Part(text=words(2))])
    whole = await scripted.generate(request)
    request.messages.append(began)
    rest = await scripted.generate(request)
    assert words(2) + text_of(rest) == text_of(whole) == words(5)
