"""Our adapters and a mock that others wrote understand each other.

Left out is where the mock does not speak as the vendor does:

- Bedrock: its event stream is not framed as AWS frames it.
- Embeddings of Google and Ollama: it knows one text per request, under an older path.
- Usage of Ollama: its counts are always zero. Reasoning of Ollama: it says `reasoning_content`, Ollama says `thinking`.
- Why Google ends after tool calls: it says FUNCTION_CALL, a word that Google does not have.
- Ids of calls in tool results at Ollama: it does not read them.
- Schemas, of answers and of tools, where the vendors' newer fields are used: it reads those of chat completions only,
  and for tools also those of Anthropic and Ollama.
- Models of Anthropic and Google: it lists them in the form of OpenAI, or not at all.
"""

from __future__ import annotations

import json
from typing import Final

import pytest

from sluice.chat.v1 import message_pb2, parameters_pb2, tool_pb2, usage_pb2

from .peer import INTEGRATIONS, MODEL, Peer, asking

HELLO: Final = "Hej på dig, Ærø 🙂, and twenty-odd words more to stream."
SCHEMA: Final = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
TOOLS: Final = [
    tool_pb2.Tool(
        function=tool_pb2.FunctionTool(name="weather", description="Tells it", parameters_json_schema=SCHEMA)
    ),
    tool_pb2.Tool(function=tool_pb2.FunctionTool(name="time", description="Tells it")),
]
RETRYABLE: Final = frozenset({"UPSTREAM_UNAVAILABLE", "UPSTREAM_PROTOCOL_ERROR", "UPSTREAM_RATE_LIMITED"})


def all_but(*names: str) -> pytest.MarkDecorator:
    """Runs a test for the formats in which the mock is right."""
    return pytest.mark.parametrize("name", sorted(set(INTEGRATIONS) - set(names)))


@pytest.mark.parametrize("whole", [False, True])
async def test_text(whole: bool, ours: Peer) -> None:
    outcome = await ours.ask(asking("say hello", whole=whole))
    assert outcome.completed.finish_reason == usage_pb2.FINISH_REASON_STOP
    assert outcome.text == HELLO


@all_but("ollama")
@pytest.mark.parametrize("whole", [False, True])
async def test_usage(whole: bool, ours: Peer) -> None:
    usage = (await ours.ask(asking("say hello", whole=whole))).completed.usage
    assert usage.source == usage_pb2.USAGE_SOURCE_PROVIDER
    assert (usage.input_tokens, usage.output_tokens) == (19, 10)


async def test_a_slow_stream_is_passed_on_as_it_comes(ours: Peer) -> None:
    outcome = await ours.ask(asking("say it slowly"))
    assert outcome.answer == "one two three four five six"
    assert sum(any(event.HasField("text_delta") for event in batch.events) for batch in outcome.batches) > 1


@all_but("ollama")
async def test_reasoning(ours: Peer) -> None:
    outcome = await ours.ask(asking("think"))
    assert (outcome.reasoning, outcome.answer) == ("Let me think.", "Yes.")


@pytest.mark.parametrize("whole", [False, True])
async def test_tools_over_two_turns(whole: bool, ours: Peer) -> None:
    request = asking("use the tools", tools=TOOLS, whole=whole)
    outcome = await ours.ask(request)
    word = outcome.completed.finish_reason
    assert ours.name == "google" or word == usage_pb2.FINISH_REASON_TOOL_CALLS
    calls: dict[int, message_pb2.ToolCall] = {}
    for event in outcome.events:
        if event.HasField("tool_call_delta"):
            delta = event.tool_call_delta
            call = calls.setdefault(delta.block_index, message_pb2.ToolCall(id=delta.id, name=delta.name))
            call.arguments_json += delta.arguments_json
    assert [call.name for call in calls.values()] == ["weather", "time"]
    assert [json.loads(call.arguments_json) for call in calls.values()] == [
        {"city": "Aarhus", "days": [1, 2, 3], "deep": {"ø": None}},
        {"zone": "CET"},
    ]
    assert all(call.id for call in calls.values())

    request.messages.add(
        role=message_pb2.MESSAGE_ROLE_ASSISTANT, parts=[message_pb2.Part(tool_call=call) for call in calls.values()]
    )
    request.messages.add(
        role=message_pb2.MESSAGE_ROLE_TOOL,
        parts=[
            message_pb2.Part(tool_result=message_pb2.ToolResult(call_id=call.id, text=f"{call.name}: fine"))
            for call in calls.values()
        ],
    )
    outcome = await ours.ask(request)
    assert outcome.completed.finish_reason == usage_pb2.FINISH_REASON_STOP
    assert outcome.text == "It rains in Aarhus."
    messages = (await ours.journal())[-1]["body"]["messages"]
    asked = [call for message in messages for call in message.get("tool_calls", ())]
    results = [message for message in messages if message["role"] == "tool"]
    assert [call["function"]["name"] for call in asked] == ["weather", "time"]
    assert ["weather: fine" in str(message["content"]) for message in results] == [True, False]
    if ours.name != "ollama":
        assert [message["tool_call_id"] for message in results] == [call["id"] for call in asked]


async def test_the_mock_received_what_was_asked(ours: Peer) -> None:
    parameters = parameters_pb2.GenerationParameters(max_output_tokens=77)
    if ours.name != "anthropic":  # which takes none any more
        parameters.temperature = 0.5
    request = asking("who are you", system_instruction="You are a zebra.", parameters=parameters, tools=TOOLS)
    outcome = await ours.ask(request)
    assert outcome.answer == "A zebra."
    (entry,) = await ours.journal()
    body = entry["body"]
    assert entry["response"]["status"] == 200
    assert (body["model"], body["stream"], body.get("temperature", 0.5)) == (MODEL, True, 0.5)
    assert 77 in (body.get("max_tokens"), body.get("max_completion_tokens"))
    assert [(message["role"], str(message["content"])) for message in body["messages"]][-1] == ("user", "who are you")
    assert "You are a zebra." in str(body["messages"][0]["content"])
    assert [tool["function"]["name"] for tool in body["tools"]] == ["weather", "time"]
    assert ours.name == "google" or body["tools"][0]["function"]["parameters"] == json.loads(SCHEMA)


@pytest.mark.parametrize("name", ["openai"])
async def test_an_answer_by_schema(ours: Peer) -> None:
    schema = '{"type":"object","properties":{"zebra":{"type":"boolean"}},"required":["zebra"]}'
    form = parameters_pb2.ResponseFormat(json_schema=parameters_pb2.JsonSchemaFormat(name="out", schema_json=schema))
    outcome = await ours.ask(asking("answer by schema", response_format=form))
    assert json.loads(outcome.answer) == {"zebra": True}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, "UPSTREAM_INVALID_ARGUMENT"),
        (401, "UPSTREAM_AUTHENTICATION"),
        (403, "UPSTREAM_PERMISSION"),
        (404, "MODEL_NOT_FOUND"),
        (429, "UPSTREAM_RATE_LIMITED"),
        (500, "UPSTREAM_UNAVAILABLE"),
        (503, "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_refusals(status: int, reason: str, ours: Peer) -> None:
    for whole in (False, True):
        outcome = await ours.ask(asking(f"refuse {status}", whole=whole))
        assert outcome.reason == reason
        assert outcome.events == []
    assert len(await ours.journal()) == 2, "nothing is retried here"


async def test_a_stream_that_breaks_off(ours: Peer) -> None:
    assert (await ours.ask(asking("break off"))).reason in ("UPSTREAM_PROTOCOL_ERROR", "UPSTREAM_UNAVAILABLE")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("dropRate", "UPSTREAM_UNAVAILABLE"),
        ("malformedRate", "UPSTREAM_PROTOCOL_ERROR"),
        ("disconnectRate", "UPSTREAM_UNAVAILABLE"),
        ("rateLimitRate", "UPSTREAM_RATE_LIMITED"),
    ],
)
async def test_chaos_of_one_kind(fault: str, reason: str, ours: Peer) -> None:
    await ours.chaos(**{fault: 1})
    for whole in (False, True):
        outcome = await ours.ask(asking("say hello", whole=whole))
        assert outcome.reason == reason
        assert outcome.error is not None
        assert outcome.error.retryable
        assert (outcome.error.retry_after is not None) == (fault == "rateLimitRate")
    await ours.chaos()
    assert (await ours.ask(asking("say hello"))).text == HELLO


async def test_chaos_of_every_kind(ours: Peer) -> None:
    """Whatever is thrown at them, answers are whole or failures, and the pool of connections survives it."""
    await ours.chaos(dropRate=0.15, malformedRate=0.15, disconnectRate=0.2, rateLimitRate=0.15, latencyMs=5)
    for number in range(40):
        outcome = await ours.ask(asking("say hello", whole=number % 2 == 0))
        if outcome.error is not None:
            assert outcome.reason in RETRYABLE
        else:
            assert outcome.answer == HELLO
    assert len(await ours.journal()) == 40
    await ours.chaos()
    assert (await ours.ask(asking("say hello"))).text == HELLO


@pytest.mark.parametrize("name", ["openai"])
async def test_embeddings(ours: Peer) -> None:
    reply = await ours.embed("a vector", "a vector")
    assert [list(row.values) for row in reply.embeddings] == [[0.25, 0.5, -1]] * 2


@pytest.mark.parametrize("name", ["ollama", "openai"])
async def test_models(ours: Peer) -> None:
    assert "gpt-4o" in await ours.models()
