"""Which target of a route is tried first: as configured, by price, by speed, by what it can do."""

import asyncio
from typing import Any

import pytest

from sluice.chat.v1.event_pb2 import AttemptOutcome
from sluice.chat.v1.parameters_pb2 import GenerationParameters
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1.provider_service_pb2 import GenerateRequest
from sluice_gateway.config import ResilienceConfig
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.standing import Standings
from sluice_kit.call import Call
from sluice_kit.config import ConfigError
from sluice_kit.testing import mesh

A, B, C = "scripted/text?tokens=1", "scripted/text?tokens=2", "scripted/text?tokens=3"


def route(*targets: str, **fields: Any) -> dict[str, Any]:
    return {"default": {"targets": list(targets), **fields}}


def named(model: str) -> Target:
    provider, _, name = model.partition("/")
    return Target(provider=provider, model=name)


def models(seen: Any) -> list[str]:
    return [f"{target.provider}/{target.model}" for target in seen.events[0][1].accepted.targets]


async def test_the_cheapest_goes_first(start: Any, ask: Any) -> None:
    prices = {B: {"input": 9, "output": 1}, C: {"input": 1, "output": 2}}
    async with start({"routes": route(A, B, C, order="cheapest"), "prices": prices}) as client:
        short = await client.stream(ask("", "hello", fallbacks=["scripted/echo"]))
        long = await client.stream(ask("", "hello " * 4000))
    # The answer weighs more for a short question, the question for a long one. No price: last.
    assert models(short) == [B, C, A, "scripted/echo"]
    assert models(long) == [C, B, A]
    assert short.last.completed.attempts[0].target.model == "text?tokens=2"


def measured(target: Target, ttft: float | None, reason: Any = ErrorReason.ERROR_REASON_UNSPECIFIED) -> AttemptRecord:
    record = AttemptRecord(1, target)
    record.ttft, record.duration = ttft, 9.0
    record.error_reason = reason
    failed = reason != ErrorReason.ERROR_REASON_UNSPECIFIED
    outcomes = AttemptOutcome
    record.outcome = outcomes.ATTEMPT_OUTCOME_FAILED if failed else outcomes.ATTEMPT_OUTCOME_COMPLETED
    return record


async def test_the_fastest_goes_first_once_each_was_measured() -> None:
    standings = Standings(ResilienceConfig())
    a, b, c = (Target(provider="p", model=name) for name in "abc")
    # One at a time is tried to be measured, in their order.
    assert standings.fastest_first([a, b, c]) == [a, b, c]
    assert standings.fastest_first([a, b, c]) == [b, a, c]
    assert standings.fastest_first([a, b, c]) == [c, a, b]
    standings.ended(measured(a, 0.5))
    standings.ended(measured(b, 0.1))
    standings.ended(measured(c, None, ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT))
    assert standings.fastest_first([a, b, c]) == [b, a, c]
    for _ in range(20):
        standings.ended(measured(b, 2.0))
    assert standings.fastest_first([a, b, c]) == [a, b, c]
    assert standings.ttft(b) == pytest.approx(2.0, abs=0.1)
    # What was measured long ago is measured again.
    standings._of(c).looked = asyncio.get_running_loop().time() - 301
    assert standings.fastest_first([a, b, c]) == [c, a, b]
    assert standings.fastest_first([a, b, c]) == [a, b, c]


async def test_a_route_may_ask_for_the_fastest(start: Any, ask: Any) -> None:
    slow = "scripted/text?tokens=1&ttft_ms=120"
    async with start({"routes": route(slow, A, order="fastest")}) as client:
        first = [models(await client.stream(ask("")))[0] for _ in range(2)]
        assert first == [slow, A]
        slowness, quickness = (client.gateway.pipeline.standings._of(named(model)) for model in (slow, A))
        assert slowness.ttft >= 0.12
        assert quickness.ttft is not None
        # The machine may have been slower than the adapter: then it is the other one.
        for quick in (slowness.ttft + 1.0, 0.01):
            quickness.ttft = quick
            assert models(await client.stream(ask("")))[0] == (A if quick < slowness.ttft else slow)


async def test_who_cannot_do_what_the_route_needs_is_passed_over(start: Any, ask: Any, until: Any) -> None:
    async with start({"routes": route("scripted/embed", "scripted/echo", needs=["tools", "reasoning"])}) as client:
        await client.gateway.catalog.find(Target(provider="scripted", model="echo"), Call("/test"))
        seen = await client.stream(ask("", "hi"))
    assert models(seen) == ["scripted/echo"]
    async with start({"routes": route("scripted/embed", A, needs=["agent"])}) as client:
        await client.gateway.catalog.find(Target(provider="scripted", model="echo"), Call("/test"))
        # It is not known what this model can do.
        assert models(await client.stream(ask(""))) == [A]
    async with start({"routes": route("scripted/echo", needs=["agent"])}) as client:
        await client.gateway.catalog.find(Target(provider="scripted", model="echo"), Call("/test"))
        assert models(await client.stream(ask("", "hi"))) == ["scripted/echo"]  # nobody can: it will say so itself


async def test_parameters_of_a_route_are_defaults(start: Any, ask: Any) -> None:
    asked: list[GenerationParameters] = []
    routes = route(A, parameters={"temperature": 0.5, "max_output_tokens": 7, "stop": ["x"]})
    async with start({"routes": routes}, "colocated") as client:
        generator = client.gateway._integrations.get("scripted").generator
        generate = generator.generate

        async def spy(request: GenerateRequest, call: Call, send: Any) -> None:
            asked.append(request.parameters)
            await generate(request, call, send)

        generator.generate = spy
        await client.stream(ask(""))
        await client.stream(ask("", parameters=GenerationParameters(max_output_tokens=3, stop=["y"])))
        await client.stream(ask(A))
    assert asked == [
        GenerationParameters(temperature=0.5, max_output_tokens=7, stop=["x"]),
        GenerationParameters(temperature=0.5, max_output_tokens=3, stop=["y"]),
        GenerationParameters(),
    ]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"order": "random"}, "order"),
        ({"needs": ["flying"]}, "needs"),
        ({"parameters": {"warmth": 1}}, "parameters.warmth: no such parameter"),
        ({"parameters": {"temperature": "hot"}}, "parameters.temperature"),
        ({"parameters": {"temperature": 3}}, "parameters.temperature"),
    ],
)
async def test_a_mistake_fails_the_start_with_its_line(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=r"sluice\.yaml:\d+") as caught:
        async with mesh({"gateway": {"routes": route(A, **fields)}}):
            pass
    assert words in str(caught.value)
