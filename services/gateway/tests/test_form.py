"""Answers that have to have a form: which schemas are taken, what is checked, and what becomes of those without it."""

import itertools
import json
from typing import Any

import pytest

from sluice.chat.v1 import event_pb2 as ev
from sluice.chat.v1.parameters_pb2 import JsonFormat, JsonSchemaFormat, ResponseFormat
from sluice.chat.v1.tool_pb2 import FunctionTool, Tool
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_gateway.pipeline import schema as schemas
from sluice_gateway.pipeline.form import MAX_CHARACTERS, Form
from sluice_gateway.pipeline.schema import Schema
from sluice_kit.errors import InvalidRequestError
from sluice_kit.fold import Fold

R = ErrorReason
RESTART, CONTINUE = pb.MidstreamPolicy.MIDSTREAM_POLICY_RESTART, pb.MidstreamPolicy.MIDSTREAM_POLICY_CONTINUE
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "ages": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name"],
    "additionalProperties": {"type": "boolean"},
}
GOOD = 'scripted/json?value={"name":"Ada"}'
ADA = '{"name": "Ada"}'
WORDS = "scripted/text?say=no JSON at all"
QUICK = {"resilience": {"retry": {"initial_seconds": 0.001}}}


def by_schema(schema: Any = PERSON) -> ResponseFormat:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return ResponseFormat(json_schema=JsonSchemaFormat(name="person", schema_json=text))


def fan_out(keyword: str, leaf: dict[str, Any]) -> dict[str, Any]:
    """A small schema that takes 2**60 steps to check."""
    names = [f"a{number}" for number in range(60)]
    rows: dict[str, Any] = {
        name: {keyword: [{"$ref": f"#/$defs/{following}"}] * 2} for name, following in itertools.pairwise(names)
    }
    return {"$defs": {**rows, names[-1]: leaf}, "$ref": f"#/$defs/{names[0]}"}


def nested(depth: int, keyword: str, more: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {keyword: [schema] if keyword == "allOf" else schema, **more}
    return schema


# Schemas.


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ("{", "not JSON"),
        ("[" * 5000, "not JSON"),
        ("[]", "not an object"),
        ({"type": "strin"}, "at /type: not a JSON Schema"),
        ({"properties": {"a": {"$ref": "#/nowhere"}}}, "not a JSON Schema"),
        ({"properties": {"a": {"pattern": "("}}}, "at /properties/a/pattern: not a JSON Schema"),
        ({"pattern": "(a{1000}){1000}"}, "not a JSON Schema"),
        ({"items": {"$ref": "http://127.0.0.1:9/schema"}}, "at /items/$ref: nothing outside"),
        ({"$ref": "file:///etc/hostname"}, "at /$ref: nothing outside"),
        ({"$id": "http://127.0.0.1:9/a", "$dynamicRef": "b"}, "at /$dynamicRef: nothing outside"),
        ({"$schema": "http://127.0.0.1:9/dialect"}, "at /$schema: not draft"),
        ({"$defs": {"a": {"$schema": "http://json-schema.org/draft-04/schema#"}}}, "at /$defs/a/$schema: not draft"),
        (nested(schemas.MAX_DEPTH + 1, "items", {}), "nested deeper"),
        (nested(5, "allOf", {"unevaluatedProperties": False}), "unevaluated"),
        ({"anyOf": [{}] * schemas.MAX_NODES}, "objects"),
        ({"allOf": [{"pattern": "a"}] * (schemas.MAX_PATTERNS + 1)}, "patterns"),
        ({"patternProperties": {f"a{n}": {} for n in range(schemas.MAX_PATTERNS + 1)}}, "patterns"),
        ({"description": "x" * schemas.MAX_BYTES}, "longer than"),
    ],
)
def test_a_schema_that_is_none_or_asks_too_much_is_refused(schema: Any, where: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Schema(schema if isinstance(schema, str) else json.dumps(schema))
    [violation] = caught.value.violations
    assert violation.field == schemas.FIELD
    assert where in violation.description


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        (PERSON, '{"name": "Ada", "ages": [1, 2]}', None),
        (PERSON, ' {"name": "Ada"}\n', None),
        (PERSON, '{"name": "Ada", "ages": [1, "two"]}', ("/ages/1", "type")),
        (PERSON, "{}", ("", "required")),
        (PERSON, '{"name": "Ada", "secret": "word"}', ("/*", "type")),  # the name may be content
        (PERSON, '```json\n{"name": "Ada"}\n```', ("", "json")),
        (PERSON, '{"name": "Ada"', ("", "json")),
        (PERSON, '{"name": NaN}', ("", "json")),
        (PERSON, '{"name": "\\ud800"}', ("", "json")),
        (PERSON, "[" * 100_000, ("", "json")),
        (True, "17", None),
        (False, "17", ("", "falseSchema")),
        ({"properties": {"$ref": {"const": {"$ref": "http://x"}}}}, '{"$ref": {"$ref": "http://x"}}', None),
        ({"properties": {"a/b~": {"type": "null"}}}, '{"a/b~": 1}', ("/a~1b~0", "type")),
        ({"pattern": "(a*)*\\1b"}, json.dumps("a" * 40 + "c"), ("", "pattern")),
        # References: within, to itself, beside other keywords, and in draft 7, which ignores those.
        ({"$ref": "#"}, "1", None),
        ({"$defs": {"n": {"type": "integer"}}, "items": {"$ref": "#/$defs/n"}}, '[1, "x"]', ("/1", "type")),
        ({"$defs": {"n": {}}, "$ref": "#/$defs/n", "type": "string"}, "1", ("", "type")),
        (
            {"$defs": {"n": {"properties": {"a": {}}}}, "$ref": "#/$defs/n", "unevaluatedProperties": False},
            '{"a": 1, "b": 2}',
            ("", "unevaluatedProperties"),
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "$ref": "#/definitions/n",
                "type": "string",
                "definitions": {"n": {"properties": {"n": {"$ref": "#/definitions/n"}}, "maxProperties": 1}},
            },
            '{"n": {"n": {"x": 1, "y": 2}}}',
            ("/n/n", "maxProperties"),
        ),
    ],
)
async def test_what_breaks_a_form_and_where(schema: Any, text: str, expected: tuple[str, str] | None) -> None:
    assert await Form(Schema(json.dumps(schema))).violation(text) == expected


@pytest.mark.parametrize(
    ("keyword", "leaf"), [("allOf", {"type": "integer"}), ("anyOf", {"type": "null"}), ("oneOf", {"type": "integer"})]
)
async def test_a_check_ends_whatever_the_schema_asks_for(
    keyword: str, leaf: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "CHECK_SECONDS", 0.01)
    assert await Form(Schema(json.dumps(fan_out(keyword, leaf)))).violation("1") == ("", "time")


async def test_what_is_large_is_checked_beside_and_what_is_too_large_is_not() -> None:
    form = Form(Schema(json.dumps({"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "null"}]}})))
    many = json.dumps([1] * 100_000)
    assert await form.violation(many) is None
    assert await form.violation(many[:-1] + ', "x"]') == ("/100000", "anyOf")
    assert await form.violation(json.dumps("x" * MAX_CHARACTERS)) == ("", "size")
    wide = Form(Schema(json.dumps({"items": {"anyOf": [{"const": n} for n in range(4000)]}})))
    # Where is not looked for in what is large, because that takes much longer than to see that it is wrong.
    assert await wide.violation(json.dumps([1] * 1000 + [-1])) == ("", "schema")
    assert await wide.violation(json.dumps([1] * 40_000)) == ("", "size")


# Over a gateway.


def folded(seen: Any) -> pb.Answer:
    fold = Fold()
    for number, event in seen.events:
        fold.add(number, event)
    return fold.answer()


async def test_an_answer_without_its_form_fails_and_counts_as_such(start: Any, ask: Any, placement: str) -> None:
    async with start(QUICK, placement) as client:
        good = await client.stream(ask(GOOD, response_format=by_schema()))
        assert good.error is None
        assert good.text == ADA
        pattern = {"properties": {"name": {"pattern": "^A"}}}
        assert (await client.stream(ask(GOOD, response_format=by_schema(pattern)))).error is None
        bad = await client.stream(ask('scripted/json?value={"name":"Ada","x":"word"}', response_format=by_schema()))
        assert bad.error is not None
        assert bad.error.reason == R.ERROR_REASON_OUTPUT_INVALID
        assert bad.error.metadata == {"provider": "scripted", "path": "/*", "keyword": "type"}
        assert "word" not in str(bad.error)
        assert "breaks its schema at /*: type" in bad.error.message
        top = await client.stream(ask("scripted/json?value={}", response_format=by_schema()))
        assert top.error is not None
        assert "at its top: required" in top.error.message
        assert "completed" not in bad.kinds
        words = await client.stream(ask(WORDS, response_format=ResponseFormat(json=JsonFormat())))
        assert words.error is not None
        assert words.error.metadata["keyword"] == "json"
        assert words.text == "no JSON at all"  # what was sent stays, and all of it was sent
        for schema in ({"$ref": "http://127.0.0.1:9/x"}, {"pattern": "("}):
            refused = await client.stream(ask(GOOD, response_format=by_schema(schema)))
            assert refused.error is not None
            assert refused.error.reason == R.ERROR_REASON_INVALID_REQUEST
            assert refused.events == []
        rows = sorted(await client.rows("attempts"), key=lambda row: row["key"])
        assert [(row["outcome"], row["reason"]) for row in rows] == [
            ("completed", ""),
            ("completed", ""),
            *[("failed", "OUTPUT_INVALID")] * 3,
        ]
        assert all(row["usage_source"] == "provider" and row["output_tokens"] for row in rows)
        # The vendor did what it was asked to.
        assert client.gateway.pipeline.standings.circuits() == {}


async def test_restart_asks_again_and_then_the_next_target(start: Any, ask: Any) -> None:
    async with start({**QUICK, "limits": {"retries": 1}}) as client:
        spec = ask(WORDS, fallbacks=[GOOD], response_format=by_schema(), midstream_policy=RESTART)
        seen = await client.stream(spec)
        go_on = await client.stream(
            ask(WORDS, fallbacks=[GOOD], response_format=by_schema(), midstream_policy=CONTINUE)
        )
    assert seen.error is None
    assert seen.kinds.count("restarted") == 2
    assert folded(seen).text == ADA
    assert [event.route_changed.reason for _, event in seen.events if event.HasField("route_changed")] == [
        R.ERROR_REASON_OUTPUT_INVALID
    ] * 2
    outcomes = [attempt.outcome for attempt in seen.last.completed.attempts]
    assert outcomes == [ev.ATTEMPT_OUTCOME_FAILED, ev.ATTEMPT_OUTCOME_FAILED, ev.ATTEMPT_OUTCOME_COMPLETED]
    assert go_on.error is not None
    assert go_on.error.reason == R.ERROR_REASON_OUTPUT_INVALID


async def test_a_caller_who_waits_for_the_whole_sees_nothing_of_it(start: Any, ask: Any, placement: str) -> None:
    """Nothing was shown, so another attempt needs no policy and voids nothing."""
    async with start({**QUICK, "limits": {"retries": 1}}, placement) as client:
        spec = ask(WORDS, fallbacks=[GOOD], response_format=by_schema())
        answer = (await client.chat.Chat(pb.ChatRequest(spec=spec))).answer
        again = await client.resume(answer.response)
    assert answer.text == ADA
    assert len(answer.completed.attempts) == 3
    assert "restarted" not in again.kinds
    assert again.text == answer.text


async def test_an_answer_that_comes_at_once_was_not_shown_either(start: Any, ask: Any) -> None:
    async with start({**QUICK, "limits": {"retries": 0}}) as client:
        at_once = f"{WORDS}&batch=100"
        seen = await client.stream(ask(at_once, fallbacks=[GOOD], response_format=by_schema()))
    assert seen.error is None
    assert seen.text == ADA
    assert "restarted" not in seen.kinds


async def test_how_an_answer_ended_counts(client: Any, ask: Any) -> None:
    tools = [Tool(function=FunctionTool(name="look"))]
    cut = await client.stream(ask(f"{GOOD}&finish=length", response_format=by_schema(), midstream_policy=RESTART))
    called = await client.stream(ask("scripted/tool", response_format=by_schema(), tools=tools))
    withheld = await client.stream(ask(f"{WORDS}&finish=content_filter", response_format=by_schema()))
    assert cut.error is not None
    assert (cut.error.reason, cut.error.metadata["finish"]) == (R.ERROR_REASON_OUTPUT_INVALID, "length")
    assert "restarted" not in cut.kinds  # it would be cut off again
    assert called.error is None
    assert "tool_call_delta" in called.kinds
    assert withheld.error is None


async def test_only_what_has_its_form_is_kept(client: Any, ask: Any) -> None:
    for model, hit in ((WORDS, False), (GOOD, True)):
        spec = ask(model, response_format=by_schema(), cache=pb.CACHE_POLICY_USE)
        await client.stream(spec)
        again = await client.stream(spec)
        assert again.last.completed.HasField("cached") is hit
