"""What an attempt used whose gateway was killed: known to whoever ends it, from its row and from the log."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from sluice.auth.v1.identity_pb2 import Identity
from sluice.chat.v1 import event_pb2 as ev
from sluice.chat.v1.message_pb2 import Image, Message, Part
from sluice.chat.v1.passage_pb2 import Passage
from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.usage_pb2 import Usage
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_gateway.config import GatewayConfig, PriceConfig
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.expect import tokens_of_passages, tokens_of_spec
from sluice_gateway.pipeline.prompts import Template
from sluice_gateway.pipeline.settle import Prices
from sluice_gateway.records import notes
from sluice_gateway.records.left import end_all
from sluice_gateway.records.notes import Notes
from sluice_gateway.responses.made import made_by_attempts
from sluice_gateway.responses.response import Response
from sluice_kit.testing import document_of

from .talking import Talker
from .test_fit import PASSAGE, Found
from .test_shared_log import silenced

GRACE = {"detach_grace": {"seconds": 30}}
SLOW = "text?tokens=2000&delay_ms=10"
CUT_ONCE = "text?tokens=2000&delay_ms=10&fault=cut@12&times=1"
PRICES = {f"scripted/{model}": {"input": 3, "output": 15} for model in (SLOW, CUT_ONCE, "text?tokens=5")}
RESTART = {"midstream_policy": pb.MidstreamPolicy.MIDSTREAM_POLICY_RESTART}


def cost(row: dict[str, Any]) -> int:
    """Returns what the tokens of a row cost by PRICES."""
    return int(row["input_tokens"] * 3000 + row["output_tokens"] * 15_000)


def tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / 4)


async def attempts(client: Any) -> list[dict[str, Any]]:
    """Returns the rows of attempts, in the order they began."""
    return sorted(await client.rows("attempts"), key=lambda row: row["key"])


async def speaking(client: Any, spec: pb.ChatSpec) -> Any:
    """Returns a call whose answer has begun."""
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=spec))
    await client.collect(call, until=lambda seen: "text_delta" in seen.kinds)
    return call


# Without a log that others read: what was noted while it ran.


@pytest.fixture
def noted_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "EVERY_SECONDS", 0.02)
    monkeypatch.setattr(notes, "_LOOK_SECONDS", 0.01)


@pytest.mark.usefixtures("noted_soon")
async def test_a_restart_knows_what_was_asked_and_noted_and_what_it_cost(start: Any, ask: Any, tmp_path: Path) -> None:
    async with start({"prices": PRICES}) as client:
        call = await speaking(client, ask(f"scripted/{SLOW}", text="What do you know? " * 20))
        while not (row := (await attempts(client))[0])["output_tokens"]:  # noqa: ASYNC110  # in the database
            await asyncio.sleep(0.01)  # a note is due by the clock
        assert (row["outcome"], row["usage_source"], row["cost_nano_usd"]) == ("running", "", None)
        target = tmp_path / "gateway"
        target.mkdir()
        for file in (client.mesh.document.state_dir() / "gateway").iterdir():
            (target / file.name).write_bytes(file.read_bytes())  # what a kill -9 leaves behind
        call.cancel()
    # The price is that of then, whatever is configured now.
    async with start({}, state_dir=str(tmp_path)) as client:
        [row] = await attempts(client)
        assert (row["outcome"], row["reason"], row["usage_source"]) == ("failed", "", "estimated")
        assert 90 <= row["input_tokens"] <= 120
        assert row["output_tokens"] > 0
        assert row["cost_nano_usd"] == cost(row)


@pytest.mark.usefixtures("noted_soon")
async def test_a_survivor_without_a_log_knows_as_much(start_recorded: Any, ask: Any) -> None:
    """Both databases reckon alike."""
    async with start_recorded({"prices": PRICES}) as client:
        call = await speaking(client, ask(f"scripted/{SLOW}"))
        while not (await attempts(client))[0]["output_tokens"]:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)
        left = await client.gateway._ledger._writer.ask(end_all)
        [row], [response] = await attempts(client), await client.rows("responses")
        assert (left.rows, list(left.responses)) == (2, [response["id"]])
        assert (row["outcome"], row["usage_source"]) == ("failed", "estimated")
        assert row["input_tokens"] > 0
        assert row["cost_nano_usd"] == cost(row) > row["input_tokens"] * 3000
        # What is noted of it from now on changes nothing: it has ended for everybody but its gateway.
        ledger = client.gateway._ledger
        [(_, attempt, _)] = ledger._notes._running.values()
        ledger._note(attempt, 10**6)
        assert await attempts(client) == [row]
        call.cancel()
        await client.gateway.responses.drain(0)
        # And its gateway knows better.
        [row] = await attempts(client)
        assert row["outcome"] == "cancelled"


async def test_without_a_price_there_is_no_cost(start_recorded: Any, ask: Any) -> None:
    async with start_recorded() as client:
        call = await speaking(client, ask(f"scripted/{SLOW}"))
        await client.gateway._ledger._writer.ask(end_all)
        [row] = await attempts(client)
        assert (row["outcome"], row["usage_source"], row["cost_nano_usd"]) == ("failed", "estimated", None)
        assert row["input_tokens"] > 0
        call.cancel()


async def test_what_ended_was_not_noted_and_what_stands_still_is_noted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, timers, said = [0.0], [], []

    class Timer:
        def __init__(self, work: Any) -> None:
            self.work = work
            timers.append(self)

        def cancel(self) -> None:
            timers.remove(self)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda: now[0])
    monkeypatch.setattr(loop, "call_later", lambda _, work: Timer(work))

    def look(at: float) -> None:
        now[0] = at
        timers.pop().work()

    kept = Notes(lambda record, made: said.append((record.number, made)))
    one, two, three = (AttemptRecord(number, Target()) for number in (1, 2, 3))
    for record in (one, two, three):
        record.key = record.number
        kept.begun(record)
    assert len(timers) == 1
    one.output_bytes, two.output_bytes = 41, 17
    look(4.9)
    assert said == []
    kept.ended(two)
    look(5.0)
    look(10.0)
    assert said == [(1, 11)]  # the third has made nothing
    one.output_bytes, three.usage = 42, Usage(output_tokens=9)
    look(15.0)
    assert said == [(1, 11), (3, 9)]  # 42 bytes are 11 tokens, too
    for record in (one, three):
        kept.ended(record)
        kept.ended(record)
    look(20.0)
    assert (said[2:], timers) == ([], [])
    kept.begun(two)
    kept.close()
    kept.close()
    assert timers == []


async def test_no_failure_of_an_adapter_leaves_an_attempt_open(start: Any, ask: Any) -> None:
    """Not even one that looks like a limit of the gateway's own."""
    async with start() as client:

        async def generate(*_: Any) -> None:
            raise TimeoutError

        client.gateway._integrations.get("scripted").generator.generate = generate
        assert (await client.stream(ask())).error is not None
        [row] = await attempts(client)
        assert (row["outcome"], row["reason"], row["usage_source"]) == ("failed", "INTERNAL", "estimated")


# With a log: what it holds of each attempt.


@pytest.fixture
async def gateways(start: Any, redis_url: str, postgres_url: str) -> AsyncIterator[Any]:
    """Returns the function that starts another gateway on the same Redis and the same records."""
    async with AsyncExitStack() as stack:

        async def another() -> Any:
            section = {
                "replicas": 2,
                "prices": PRICES,
                "log": {"redis": {"url": redis_url, "lease_seconds": 1}},
                "records": {"url": postgres_url, "lease_seconds": 1},
            }
            return await stack.enter_async_context(start(section))

        yield another


async def test_a_survivor_tells_the_attempts_of_the_log_apart(gateways: Any, ask: Any) -> None:
    """The first one broke off and was settled; what the second one made is the text after its announcement alone."""
    one, two = await gateways(), await gateways()
    call = one.chat.StreamChat(pb.StreamChatRequest(spec=ask(f"scripted/{CUT_ONCE}", **GRACE, **RESTART)))
    seen = await one.collect(call, until=lambda seen: "restarted" in seen.kinds and len(seen.events) > 30)
    going_on = silenced(one)
    one.gateway._ledger._database._keeping.cancel()
    rest = await two.resume(seen.response)
    while not all(row["output_tokens"] and row["outcome"] == "failed" for row in await attempts(two)):  # noqa: ASYNC110  # in a server
        await asyncio.sleep(0.02)  # leases end by its clock
    await two.gateway._ledger._writer.flush()
    [first, second], [response] = await attempts(two), await two.rows("responses")
    begins = next(index for index, kind in enumerate(rest.kinds) if kind == "route_changed")
    made = "".join(event.text_delta.text for _, event in rest.events[begins:])
    assert (response["state"], response["reason"]) == ("failed", "RESPONSE_LOST")
    assert first["reason"] == "UPSTREAM_PROTOCOL_ERROR"
    assert (second["outcome"], second["reason"], second["usage_source"]) == ("failed", "", "estimated")
    assert 0 < first["output_tokens"] < tokens(rest.text)
    assert second["output_tokens"] == tokens(made)
    assert second["input_tokens"] > 0
    assert [row["cost_nano_usd"] for row in (first, second)] == [cost(first), cost(second)]
    going_on.set()
    call.cancel()


async def told(two: Any, call: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Waits until the ledger knows an end that the log has, and returns the rows of the attempt and of the response."""
    while (row := (await two.rows("responses"))[0])["state"] == "running" or row["reason"] == "RESPONSE_LOST":  # noqa: ASYNC110  # in a server
        await asyncio.sleep(0.02)  # as above
    await two.gateway._ledger._writer.flush()
    [attempt], [response] = await attempts(two), await two.rows("responses")
    call.cancel()
    return attempt, response


def forgets_ends(client: Any) -> None:
    """From now on what a gateway would write of ends is lost, as it is with a kill in the moment after them."""
    ledger = client.gateway._ledger
    ledger.attempt_ended = ledger.response_ended = lambda _: None
    ledger._database._keeping.cancel()


async def test_an_end_that_only_the_log_has_is_written_down(gateways: Any, ask: Any) -> None:
    """Whoever saw `Completed` finds the same figures in the ledger."""
    one, two = await gateways(), await gateways()
    forgets_ends(one)
    call = one.chat.StreamChat(pb.StreamChatRequest(spec=ask("scripted/text?tokens=5", **GRACE)))
    seen = await one.collect(call)
    [said] = seen.last.completed.attempts
    attempt, response = await told(two, call)
    assert (response["state"], response["reason"]) == ("completed", "")
    assert (attempt["id"], attempt["outcome"], attempt["usage_source"]) == (said.attempt_id, "completed", "provider")
    for kind in ("input", "cached_input", "output", "reasoning"):
        assert attempt[f"{kind}_tokens"] == getattr(said.usage, f"{kind}_tokens")
    assert attempt["cost_nano_usd"] == said.cost_nano_usd == cost(attempt)
    assert attempt["ttft_us"] == said.time_to_first_token.ToMicroseconds()
    assert attempt["duration_us"] == said.duration.ToMicroseconds()


async def test_so_is_a_failure_with_what_was_made_until_then(gateways: Any, ask: Any) -> None:
    one, two = await gateways(), await gateways()
    forgets_ends(one)
    call = one.chat.StreamChat(pb.StreamChatRequest(spec=ask(f"scripted/{CUT_ONCE}", **GRACE)))
    seen = await one.collect(call)
    attempt, response = await told(two, call)
    assert (response["state"], response["reason"]) == ("failed", "UPSTREAM_PROTOCOL_ERROR")
    assert seen.error.reason_name == response["reason"]
    assert (attempt["outcome"], attempt["usage_source"]) == ("failed", "estimated")
    assert attempt["output_tokens"] == tokens(seen.text)
    assert attempt["cost_nano_usd"] == cost(attempt)


async def logged(events: Iterable[ev.Event]) -> Response:
    response = Response(
        "1-x",
        Identity(tenant="t"),
        row_key=1,
        log_bytes=10**6,
        queue_bytes=10**6,
        on_growth=lambda _: None,
        on_end=lambda _: None,
    )
    response.emit(*events)
    return response


async def test_everything_that_a_model_made_counts_once_for_its_attempt() -> None:
    changed = ev.Event(route_changed=ev.RouteChanged(attempt_id="b"))
    events = [
        ev.Event(accepted=ev.Accepted(response="responses/1-x")),
        ev.Event(text_delta=ev.TextDelta(text="grün")),
        ev.Event(reasoning_delta=ev.ReasoningDelta(text="abcdefg")),
        changed,
        ev.Event(tool_call_delta=ev.ToolCallDelta(arguments_json='{"a":1}')),
        ev.Event(tool_call_delta=ev.ToolCallDelta(input_text="abcdef")),
        ev.Event(route_changed=ev.RouteChanged(attempt_id="c")),
        ev.Event(usage_update=ev.UsageUpdate(usage=Usage(output_tokens=3))),
        ev.Event(usage_update=ev.UsageUpdate(usage=Usage(output_tokens=70))),
        ev.Event(text_delta=ev.TextDelta(text="x")),
    ]
    assert made_by_attempts(await logged(events)) == {"": 3, "b": 4, "c": 70}
    assert made_by_attempts(await logged([changed])) == {}


# What is expected of a request.


def test_labels_are_not_read_and_an_image_is_more_than_its_bytes(ask: Any) -> None:
    plain = tokens_of_spec(ask("a/b", text="word " * 100))
    assert 125 <= plain <= 140
    labelled = tokens_of_spec(ask("a/b", text="word " * 100, labels={"n" * 60: "v" * 200}))
    assert plain <= labelled <= plain + 5
    long = tokens_of_spec(ask("a/b", text="word " * 4000, system_instruction="s" * 400))
    assert 5000 <= long <= 6000
    picture = Part(image=Image(data=b"\0" * 400_000, media_type="image/png"))
    shown = tokens_of_spec(pb.ChatSpec(model="a/b", messages=[Message(parts=[Part(text="What is it?"), picture])]))
    assert 1000 <= shown <= 3000


def test_passages_count_with_what_is_said_of_them() -> None:
    template = Template("id", "sha", "s" * 80)
    assert tokens_of_passages([], template) == 0
    assert tokens_of_passages([Passage(text="x" * 40), Passage(text="y" * 40)], template) == 40
    assert tokens_of_passages([Passage(text="x" * 40)], None) == 10


async def test_passages_and_what_was_said_before_are_expected_too(start: Any, ask: Any) -> None:
    async with start({"prices": PRICES}) as client:
        client.gateway.pipeline._grounder._retrieval = Found()
        talker = Talker(client, ask)
        await talker.create()
        await talker.say("word " * 1000, "scripted/text?tokens=5")
        plain = ask(f"scripted/{SLOW}", text="And?")
        asked = [
            plain,
            ask(f"scripted/{SLOW}", text="And?", conversation="conversations/talk"),
            ask(f"scripted/{SLOW}", text="And?", grounding={"corpora": ["corpora/docs"]}),
        ]
        calls = [await speaking(client, spec) for spec in asked]
        alone, after, with_passage = [row["input_tokens"] for row in (await attempts(client))[1:]]
        for call in calls:
            call.cancel()
    assert alone < 40
    assert after > alone + 1000
    assert with_passage > alone + len(PASSAGE) // 5


def test_rates_are_those_of_a_thousand_tokens_and_have_a_limit(tmp_path: Path) -> None:
    configured = {
        "a/b": PriceConfig(0.0375, 15),
        "a/c": PriceConfig(float("inf"), 1e30),
        "a/free": PriceConfig(0, 0),
    }
    prices = Prices(document_of({}, tmp_path), GatewayConfig(prices=configured))
    rates = [prices.rates(Target(provider="a", model=model)) for model in ("b", "c", "free", "other")]
    assert rates == [(37_500, 15_000_000), (10**11, 10**11), (0, 0), None]
    other = Prices(document_of({}, tmp_path), GatewayConfig(prices={"a/b": PriceConfig(1, 2)}))
    prices.take(other)
    assert prices.rates(Target(provider="a", model="b")) == (1_000_000, 2_000_000)
