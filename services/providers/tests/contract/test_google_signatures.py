"""Signatures of Gemini's thoughts go back on exactly the parts that they came on, also over several turns."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.chat.v1 import event_pb2, message_pb2, target_pb2, tool_pb2, usage_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.fold import Fold
from sluice_providers.wire.gemini_request import gemini_body
from sluice_providers.wire.gemini_stream import GeminiStream

from .asked import ASSISTANT, TOOL, USER
from .format_google import GOOGLE, MODEL, call, chunk, event, reply
from .subject import Subject, asking, failure_of, subject, text_of
from .upstream import Upstream, plain, stream


@pytest.fixture
async def running(transport: str, upstream: Upstream, tmp_path: Path) -> AsyncIterator[Subject]:
    upstream.answer(stream(GOOGLE.text("Hello")))
    async with subject(transport, "vendor", {"adapter": "google", **GOOGLE.settings(upstream.url)}, tmp_path) as found:
        yield found


def answer_of(events: list[event_pb2.Event], provider: str = "vendor") -> message_pb2.Message:
    """Returns what events add up to, as a client sends it back."""
    fold = Fold()
    accepted = event_pb2.Accepted(targets=[target_pb2.Target(provider=provider, model=MODEL)])
    for number, one in enumerate([event_pb2.Event(accepted=accepted), *events]):
        fold.add(number, one)
    return fold.answer().message


def going_on(*messages: message_pb2.Message, model: str = MODEL) -> pb.GenerateRequest:
    """Returns a request whose dialogue goes on with messages."""
    request = asking("vendor", model)
    request.messages.extend(messages)
    return request


async def next_turn(running: Subject, upstream: Upstream, message: message_pb2.Message, model: str = MODEL) -> Any:
    """Asks once more with an answer and the results of its calls, and returns what was sent of these two."""
    upstream.answer(stream(GOOGLE.text("Done")))
    request = going_on(message, model=model)
    calls = [part.tool_call for part in message.parts if part.HasField("tool_call")]
    if calls:
        results = [message_pb2.ToolResult(call_id=one.id, text=f"of {one.name}") for one in calls]
        parts = [message_pb2.Part(tool_result=result) for result in results]
        request.messages.append(message_pb2.Message(role=TOOL, parts=parts))
    assert text_of(await running.generate(request)) == "Done"
    return [content["parts"] for content in upstream.last.json["contents"][1:]]


TOOLS = [tool_pb2.Tool(function=tool_pb2.FunctionTool(name=name)) for name in ("weather", "time")]


@pytest.mark.parametrize("ids", [("fc1", "fc2"), (None, None)], ids=["vendors-ids", "made-up-ids"])
@pytest.mark.parametrize("whole", [False, True])
async def test_a_tool_loop_with_signatures(
    whole: bool, ids: tuple[str | None, str | None], running: Subject, upstream: Upstream
) -> None:
    """Every signature goes back on the very part that it came on."""
    parts = [
        {"text": "Two calls.", "thought": True},
        {"text": "I look.", "thoughtSignature": "AAAA"},
        {"thoughtSignature": "BBBB", **call(ids[0], "weather", city="Aarhus")},
        call(ids[1], "weather", city="Ribe"),
        {"thoughtSignature": "CCCC", **call(None, "time", zone="CET")},
    ]
    if whole:
        upstream.answer(plain(json.dumps(reply(*parts, finish="STOP")).encode()))
    else:
        upstream.answer(stream([*(chunk(part) for part in parts), chunk({"text": ""}, finish="STOP")]))
    events = await running.generate(asking("vendor", MODEL, tools=TOOLS, whole=whole))
    assert events[-1].completed.finish_reason == usage_pb2.FINISH_REASON_TOOL_CALLS
    message = answer_of(events)
    calls = [part.tool_call for part in message.parts if part.HasField("tool_call")]
    assert [one.name for one in calls] == ["weather", "weather", "time"]
    assert len({one.id for one in calls}) == 3
    assert all(one.id for one in calls)
    sent, results = await next_turn(running, upstream, message)
    assert sent == parts[1:], "unsigned thoughts are for people"
    known = [{"id": id} if id else {} for id in (*ids, None)]
    assert results == [
        {"functionResponse": {**given, "name": name, "response": {"output": f"of {name}"}}}
        for given, name in zip(known, ["weather", "weather", "time"], strict=True)
    ]


async def test_made_up_ids_differ_between_answers(running: Subject, upstream: Upstream) -> None:
    seen = []
    for response_id in ("r1", "r2", "r1"):
        frame = reply(call(None, "time"), call(None, "time"), finish="STOP") | {"responseId": response_id}
        upstream.answer(stream([event(frame)]))
        events = await running.generate(asking("vendor", MODEL, tools=TOOLS))
        seen.append([one.tool_call_delta.id for one in events if one.HasField("tool_call_delta")])
    assert seen[0] == seen[2]
    assert len({*seen[0], *seen[1]}) == 4


@pytest.mark.parametrize(
    "parts",
    [
        [{"text": "Hé"}, {"text": "llø", "thoughtSignature": "AAAA"}],
        [{"text": "Hello"}, {"text": "", "thoughtSignature": "AAAA"}],
        [{"text": "Hello", "thoughtSignature": "AAAA"}, {"text": " there", "thoughtSignature": "BBBB"}],
        [{"text": "Hello", "thoughtSignature": "AAAA"}, {"text": " there"}],
        [{"text": "Hm", "thought": True, "thoughtSignature": "AAAA"}, {"text": "Hi", "thoughtSignature": "BBBB"}],
        [{"text": "", "thoughtSignature": "AAAA"}, {"text": "Hi"}],
        [{"text": "", "thought": True, "thoughtSignature": "AAAA"}, {"text": "Hi"}],
        [{"text": "A"}, {"thoughtSignature": "AAAA", **call("f", "time")}, {"text": "", "thoughtSignature": "BBBB"}],
    ],
    ids=["tail", "alone", "twice", "first", "thought", "before", "silent-thought", "after-a-call"],
)
async def test_signatures_stay_where_they_were(
    parts: list[dict[str, Any]], running: Subject, upstream: Upstream
) -> None:
    upstream.answer(stream([*(chunk(part) for part in parts), chunk(finish="STOP")]))
    message = answer_of(await running.generate(asking("vendor", MODEL, tools=TOOLS)))
    sent, *_ = await next_turn(running, upstream, message)
    assert sent == parts


async def test_a_signature_at_the_end_tears_no_text_in_two(running: Subject, upstream: Upstream) -> None:
    upstream.answer(stream([chunk({"text": "Hel"}), chunk({"text": "lo", "thoughtSignature": "AAAA"}, finish="STOP")]))
    events = await running.generate(asking("vendor", MODEL))
    assert text_of(events, 0) == text_of(events) == "Hello"


async def test_what_a_client_changed_is_signed_as_well_as_can_be(running: Subject, upstream: Upstream) -> None:
    upstream.answer(stream([chunk({"text": "Hallo "}), chunk({"text": "du", "thoughtSignature": "A"}, finish="STOP")]))
    message = answer_of(await running.generate(asking("vendor", MODEL)))
    message.parts[0].text = "å"
    assert (await next_turn(running, upstream, message))[0] == [{"text": "å", "thoughtSignature": "A"}]
    message.parts[0].text = "aå!"
    assert (await next_turn(running, upstream, message))[0] == [{"text": "aå!", "thoughtSignature": "A"}]
    del message.parts[0]
    assert (await next_turn(running, upstream, message))[0] == [{"text": "", "thoughtSignature": "A"}]
    for state in (b"\xff", b"tail:x:A"):
        message.parts[0].reasoning.state = state
        error = await failure_of(running, going_on(message))
        assert [violation.field for violation in error.violations] == ["messages[1].parts[0].reasoning.state"]


async def test_calls_of_others_are_marked_as_such(running: Subject, upstream: Upstream) -> None:
    """Younger models refuse unsigned calls in the current turn; for those of another provider there is a word."""
    parts = [
        message_pb2.Part(tool_call=message_pb2.ToolCall(id=id, name="time", arguments_json="{}")) for id in ("c1", "c2")
    ]
    message = message_pb2.Message(role=ASSISTANT, parts=parts)
    unsigned = [call("c1", "time"), call("c2", "time")]
    sent, _ = await next_turn(running, upstream, message)
    assert sent == [unsigned[0] | {"thoughtSignature": "skip_thought_signature_validator"}, unsigned[1]]
    sent, _ = await next_turn(running, upstream, message, "gemini-2.5-flash")
    assert sent == unsigned
    results = [message_pb2.Part(tool_result=message_pb2.ToolResult(call_id=id)) for id in ("c1", "c2")]
    answered = message_pb2.Message(role=TOOL, parts=results)
    more = message_pb2.Message(role=USER, parts=[message_pb2.Part(text="And now?")])
    await running.generate(going_on(message, answered, more))
    assert upstream.last.json["contents"][1]["parts"] == unsigned, "earlier turns are not looked at"


async def test_a_result_without_its_call_is_refused(running: Subject) -> None:
    result = message_pb2.Part(tool_result=message_pb2.ToolResult(call_id="c9"))
    error = await failure_of(running, going_on(message_pb2.Message(role=TOOL, parts=[result])))
    assert [violation.field for violation in error.violations] == ["messages[1].parts[0].tool_result.call_id"]


SIGNED = st.sampled_from(["", "", "AAAA", "BBB="])
WORDS = st.text(st.sampled_from("aå🙂"), max_size=3)


@st.composite
def any_part(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["text", "text", "thought", "call"]))
    part: dict[str, Any] = call("fc", "time", zone="CET") if kind == "call" else {"text": draw(WORDS)}
    if kind == "thought":
        part["thought"] = True
    signature = draw(SIGNED)
    return part | ({"thoughtSignature": signature} if signature else {})


def as_told(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What must go back: unsigned neighbours of one kind as one, and nothing that is empty or a thought of no seal."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        last = joined[-1] if joined else {}
        if part.get("text") == "" and "thoughtSignature" not in part:
            continue
        grows = "text" in last and "text" in part and "thoughtSignature" not in last
        if grows and "thought" in last and "thought" in part:
            joined[-1] = {**part, "text": last["text"] + part["text"]}
        elif grows and "thoughtSignature" not in part and last.keys() == part.keys():
            last["text"] += part["text"]
        else:
            joined.append(dict(part))
    return [part for part in joined if "thought" not in part or "thoughtSignature" in part]


@given(st.lists(any_part(), max_size=8), st.integers(1, 4))
def test_any_parts_in_any_reads_go_back_as_they_came(parts: list[dict[str, Any]], size: int) -> None:
    frames = [chunk(part) for part in parts] + [chunk(finish="STOP")]
    payloads = [frame.removeprefix(b"data: ").strip() for frame in frames]
    reader = GeminiStream("vendor")
    batches = [reader.translate(payloads[start : start + size]) for start in range(0, len(payloads), size)]
    assert reader.done
    message = answer_of([one for batch in batches for one in batch.events])
    body = gemini_body(going_on(message, model="gemini-2.5-flash"), integration="vendor")
    written = [part for content in body["contents"][1:] for part in content["parts"]]
    assert written == as_told(parts)
