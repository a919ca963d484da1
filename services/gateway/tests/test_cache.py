"""Answers from the cache: what is the same request, whose it is, what is kept, and that a hit is an answer like any."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.chat.v1.event_pb2 import Completed
from sluice.chat.v1.passage_pb2 import CitationState, Passage
from sluice.chat.v1.target_pb2 import Target
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.retrieval.v1 import search_service_pb2 as search_pb
from sluice_gateway.cache.answers import Lookup
from sluice_gateway.cache.making import Making
from sluice_gateway.cache.store import Entry, Key, Store
from sluice_gateway.config import CacheConfig, RoutePolicy
from sluice_gateway.pipeline.plan import Plan
from sluice_kit.auth import LocalAuthenticator
from sluice_kit.call import Call
from sluice_kit.config import ServerConfig
from sluice_kit.rpc import invalid_field
from sluice_kit.server import Server

TEXT = "scripted/text?tokens=5"
USE, OFF, REFRESH = pb.CACHE_POLICY_USE, pb.CACHE_POLICY_OFF, pb.CACHE_POLICY_REFRESH
AGAIN = ("text_delta", "reasoning_delta", "tool_call_delta", "notice", "citation")


def content(seen: Any) -> list[Any]:
    """What an answer says, without who made it and when."""
    return [event for _, event in seen.events if event.WhichOneof("kind") in AGAIN]


async def outcomes(client: Any) -> list[str]:
    return [row["outcome"] for row in await client.rows("attempts")]


def is_hit(seen: Any) -> bool:
    assert seen.error is None
    hit: bool = seen.last.completed.HasField("cached")
    return hit


async def test_a_hit_is_an_answer_of_its_own(start: Any, ask: Any, placement: str) -> None:
    prices = {TEXT: {"input": 1, "output": 1}}
    async with start({"prices": prices}, placement) as client:
        first = await client.stream(ask(TEXT, cache=USE, labels={"a": "1"}))
        again = await client.stream(ask(TEXT, cache=USE, labels={"a": "2"}, background=True))
        assert not is_hit(first)
        assert is_hit(again)
        assert content(again) == content(first) != []
        assert again.response != first.response
        assert again.numbers == list(range(1, len(again.events) + 1))
        completed = again.last.completed
        assert completed.finish_reason == first.last.completed.finish_reason
        assert (completed.cost_nano_usd, len(completed.attempts), completed.usage.output_tokens) == (0, 0, 0)
        assert completed.cached.target.model == "text?tokens=5"
        assert completed.cached.create_time.seconds > 0
        assert [kind for kind in again.kinds if kind not in ("text_delta", "accepted", "completed")] == []
        assert (await client.resume(again.response)).events == again.events
        whole = (await client.chat.Chat(pb.ChatRequest(spec=ask(TEXT, cache=USE)))).answer
        assert whole.text == first.text
        assert whole.completed.HasField("cached")
        rows = sorted(await client.rows("attempts"), key=lambda row: row["key"])
        assert [row["outcome"] for row in rows] == ["completed", "cached", "cached"]
        assert [row["cost_nano_usd"] == 0 for row in rows] == [False, True, True]
        assert rows[1]["labels"] == '{"a": "2"}'
        assert {row["state"] for row in await client.rows("responses")} == {"completed"}


async def test_who_asks_for_it_and_who_does_not(start: Any, ask: Any) -> None:
    routes = {
        "kept": {"targets": [TEXT], "cache": True},
        "default": {"targets": [TEXT]},
        "other": {"targets": [TEXT], "cache": True, "parameters": {"temperature": 0.5}},
    }
    async with start({"routes": routes}) as client:
        for spec, hit in (
            (ask("kept"), False),
            (ask("kept"), True),
            (ask("kept", cache=OFF), False),
            (ask("kept", text="another"), False),
            (ask("other"), False),  # another route is another question, with other parameters at that
            (ask("other"), True),
            (ask("default"), False),
            (ask("default"), False),
            (ask("default", cache=USE), False),
            (ask("default", cache=USE), True),
            (ask("default", cache=REFRESH), False),
            (ask("default", cache=USE), True),
            (ask("default", cache=USE, system_instruction="be brief"), False),
            (ask("default", cache=USE, fallbacks=["scripted/echo"]), False),
        ):
            assert is_hit(await client.stream(spec)) is hit, spec
    async with start({"routes": routes, "cache": {"total_bytes": 0}}) as client:
        for _ in range(2):
            assert not is_hit(await client.stream(ask("kept", cache=USE)))


async def test_a_hit_needs_no_vendor(start: Any, ask: Any, until: Any) -> None:
    """Not even one whose circuit is open; and a request id attaches to a hit as to any answer."""
    model = "scripted/text?tokens=5&fault=UPSTREAM_UNAVAILABLE"
    spec = ask("kept", cache=USE)
    routes = {"kept": {"targets": [model, TEXT], "retries": 0}}
    breaker = {"failures": 1, "open_seconds": 1000, "max_open_seconds": 1000}
    async with start({"routes": routes, "default_route": "kept", "resilience": {"breaker": breaker}}) as client:
        first = await client.stream(spec)
        assert first.last.completed.attempts[1].target.model == "text?tokens=5"
        hit = await client.stream(spec, "0c0e2c55-6f0a-4c8e-b4a5-3d6f9b1e2a77")
        assert hit.last.completed.cached.target.model == "text?tokens=5"
        assert (await client.stream(spec, "0c0e2c55-6f0a-4c8e-b4a5-3d6f9b1e2a77")).events == hit.events
        assert (await client.chat.Chat(pb.ChatRequest(spec=spec))).answer.target.model == "text?tokens=5"
        await until(lambda: client.gateway.responses.running == 0)
        assert sorted(await outcomes(client)) == ["cached", "cached", "completed", "failed"]


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("scripted/text?tokens=5&finish=length", False),
        ("scripted/text?tokens=5&fault=cut@2", False),
        ("scripted/tool", False),
        ("scripted/reason", True),
        ("scripted/json", True),
    ],
)
async def test_only_whole_answers_are_kept(client: Any, ask: Any, model: str, kept: bool) -> None:
    first = await client.stream(ask(model, cache=USE))
    again = await client.stream(ask(model, cache=USE))
    assert len(client.gateway.cache.store) == int(kept)
    assert ("cached" in await outcomes(client)) is kept
    if kept:
        assert content(again) == content(first)


async def test_tool_calls_are_kept_where_that_is_wanted(start: Any, ask: Any) -> None:
    async with start({"cache": {"tool_calls": True}}) as client:
        first = await client.stream(ask("scripted/tool", cache=USE))
        again = await client.stream(ask("scripted/tool", cache=USE))
        assert is_hit(again)
        assert content(again) == content(first)
        assert "tool_call_delta" in again.kinds


async def test_what_is_too_large_is_not_kept(start: Any, ask: Any) -> None:
    for cache in ({"entry_bytes": 20}, {"total_bytes": 1000}):
        async with start({"cache": cache}) as client:
            await client.stream(ask(TEXT, cache=USE))
            assert not is_hit(await client.stream(ask(TEXT, cache=USE)))
            assert client.gateway.cache.store.size == 0
    async with start({"log": {"response_bytes": 200}}) as client:
        long = "scripted/text?tokens=200&batch=5"
        await client.stream(ask(long, cache=USE))  # its beginning is no longer in the log
        assert not is_hit(await client.stream(ask(long, cache=USE)))


async def test_tenants_have_nothing_in_common(start: Any, ask: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    rows = [
        f"  - {{id: {name}, sha256: {hashlib.sha256(name.encode()).hexdigest()}, tenant: {name}}}\n"
        for name in ("one", "two")
    ]
    keys.write_text("keys:\n" + "".join(rows))
    async with start(auth={"mode": "keys", "keys_file": str(keys)}) as client:
        one, two = ([("authorization", f"Bearer {name}")] for name in ("one", "two"))
        spec = ask(TEXT, cache=USE)
        hits = [is_hit(await client.stream(spec, metadata=who)) for who in (one, one, two, two, one)]
        assert hits == [False, True, False, True, True]


class Search:
    """A retrieval service that finds what a test wants."""

    def __init__(self, *passages: Passage) -> None:
        self.passages = list(passages)
        self.state = search_pb.SPAN_STATE_VALID

    async def search(self, request: search_pb.SearchRequest, call: Call) -> search_pb.SearchResponse:
        if not self.passages:
            raise invalid_field("corpora", "gone")
        return search_pb.SearchResponse(passages=self.passages)

    async def verify(self, request: search_pb.VerifySpansRequest, call: Call) -> search_pb.VerifySpansResponse:
        return search_pb.VerifySpansResponse(states=[self.state for _ in request.spans])

    @contextlib.asynccontextmanager
    async def serving(self, address: str) -> AsyncIterator[None]:
        server = Server("search", address, None, LocalAuthenticator(), ServerConfig())
        rpcs = SimpleNamespace(Search=self.search, VerifySpans=self.verify)
        server.add(search_pb.DESCRIPTOR.services_by_name["SearchService"], rpcs)
        await server.bind()
        await server.ready()
        try:
            yield
        finally:
            await server.stop(0)


def passage(text: str, **fields: Any) -> Passage:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Passage(corpus="corpora/docs", path="a.py", start_line=1, end_line=1, sha256=digest, text=text, **fields)


async def test_grounded_answers_go_by_their_passages(start: Any, ask: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/search.sock"
    search = Search(passage("one\n", score=0.5))
    providers = {"scripted": {"adapter": "scripted"}, "extractive": {}}
    spec = ask("extractive/quote", text="one", cache=USE, grounding={"corpora": ["corpora/docs"]})
    async with search.serving(address), start({"retrieval": {"address": address}}, providers=providers) as client:
        first = await client.stream(spec)
        assert [event.citation.state for _, event in first.events if event.HasField("citation")] == [
            CitationState.CITATION_STATE_VERIFIED
        ]
        search.passages[0].score = 0.7
        again = await client.stream(spec)
        assert is_hit(again)
        assert content(again) == content(first)
        assert again.kinds[:2] == ["accepted", "retrieved"]
        # What it cites is checked as if it were new.
        search.state = search_pb.SPAN_STATE_CHANGED
        stale = await client.stream(spec)
        assert is_hit(stale)
        assert [event.citation.state for _, event in stale.events if event.HasField("citation")] == [
            CitationState.CITATION_STATE_STALE
        ]
        search.passages = [passage("one and another\n")]
        assert not is_hit(await client.stream(spec))
        # An answer that was made for want of passages is not kept.
        search.passages = []
        spec.grounding.policy = pb.GROUNDING_POLICY_BEST_EFFORT
        for _ in range(2):
            assert not is_hit(await client.stream(spec))


PLAN = Plan((Target(provider="p", model="m"),), RoutePolicy())
NAMES = st.text(max_size=6)


def key_of(tenant: str, spec: pb.ChatSpec, *passages: Passage) -> Key:
    lookup = Lookup(Store(CacheConfig()), Making(), CacheConfig(), PLAN, spec, tenant)
    lookup.find(None, passages)
    assert lookup._key is not None
    return lookup._key


@given(st.tuples(NAMES, NAMES, NAMES), st.tuples(NAMES, NAMES, NAMES))
def test_keys_are_equal_only_for_the_same_tenant_and_request(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    def key(parts: tuple[str, str, str]) -> Key:
        tenant, model, text = parts
        return key_of(tenant, pb.ChatSpec(model=model, system_instruction=text), passage(text))

    same = one == other
    assert (key(one) == key(other)) is same
    assert (key(one).digest == key(other).digest) is same


def test_what_does_not_reach_the_model_makes_no_other_key() -> None:
    plain = pb.ChatSpec(model="m", system_instruction="s")
    dressed = pb.ChatSpec(model="m", system_instruction="s", labels={"a": "b"}, background=True, cache=USE)
    dressed.detach_grace.seconds = 1
    assert key_of("t", plain) == key_of("t", dressed)
    lenient = pb.ChatSpec(model="m", system_instruction="s", lenient=True)
    assert key_of("t", plain) != key_of("t", lenient)
    assert key_of("t", plain, passage("a", score=1)) == key_of("t", plain, passage("a", score=2))
    assert key_of("t", plain, passage("a")) != key_of("t", plain, passage("a", revision="r"))
    assert key_of("t", plain, passage("a"), passage("b")) != key_of("t", plain, passage("b"), passage("a"))


def entry(size: int) -> Entry:
    return Entry(1, b"x", Completed(), Target(), None, 0, size)


async def test_the_store_keeps_its_limits(until: Any) -> None:
    store = Store(CacheConfig(total_bytes=10_000, entry_bytes=5_000))
    keys = [Key("t", bytes([number])) for number in range(4)]
    assert not store.put(keys[0], entry(5_001))
    for key in keys[:2]:
        assert store.put(key, entry(2_000))
    assert store.get(keys[0]) is not None  # used later than the other
    assert store.put(keys[2], entry(4_000))
    assert [store.get(key) is not None for key in keys] == [True, False, True, False]
    assert store.put(keys[2], entry(1_000))
    assert (len(store), store.size) == (2, 3_000 + 2 * 1_024)
    old = Store(CacheConfig(age_seconds=0.02))
    assert old.put(keys[0], entry(1))
    await until(lambda: old.get(keys[0]) is None)
    assert (len(old), old.size) == (0, 0)


# Two at once.


class Held:
    """Stands before an adapter and holds back what it is asked, until it is let."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.asked = 0
        self.gate = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def generate(self, request: Any, call: Any, send: Any) -> None:
        self.asked += 1
        await self.gate.wait()
        await self._inner.generate(request, call, send)


def held(client: Any) -> Held:
    integration = client.gateway._integrations.get("scripted")
    integration.generator = Held(integration.generator)
    found: Held = integration.generator
    return found


async def test_what_is_being_made_is_waited_for(client: Any, ask: Any, until: Any) -> None:
    upstream = held(client)
    asked = [asyncio.create_task(client.stream(ask(TEXT, cache=USE))) for _ in range(4)]
    await until(lambda: client.gateway.responses.running == 4 and upstream.asked == 1)
    # Who wants it made anew waits for nobody, and neither does who asks for something else.
    other = asyncio.create_task(client.stream(ask(TEXT, cache=REFRESH)))
    await until(lambda: upstream.asked == 2)
    upstream.gate.set()
    seen = [await task for task in asked]
    await other
    assert sorted(is_hit(one) for one in seen) == [False, True, True, True]
    assert [content(one) for one in seen] == [content(seen[0])] * 4
    assert upstream.asked == 2
    assert client.gateway.cache._making._ends == {}


@pytest.mark.parametrize("model", ["scripted/text?fault=cut@1", "scripted/tool"])
async def test_who_waited_for_nothing_asks_itself(client: Any, ask: Any, until: Any, model: str) -> None:
    upstream = held(client)
    asked = [asyncio.create_task(client.stream(ask(model, cache=USE))) for _ in range(2)]
    await until(lambda: client.gateway.responses.running == 2 and upstream.asked == 1)
    upstream.gate.set()
    for task in asked:
        await task
    assert upstream.asked == 2
    assert client.gateway.cache._making._ends == {}


async def test_nobody_waits_for_one_that_was_cancelled_or_longer_than_it_is_worth(
    client: Any, ask: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = held(client)
    first = client.chat.StreamChat(pb.StreamChatRequest(spec=ask(TEXT, cache=USE)))
    await first.read()
    await until(lambda: upstream.asked == 1)
    second = asyncio.create_task(client.stream(ask(TEXT, cache=USE)))
    await until(lambda: client.gateway.responses.running == 2)
    first.cancel()
    await until(lambda: upstream.asked == 2)
    monkeypatch.setattr("sluice_gateway.cache.answers._WAIT_SECONDS", 0.001)
    third = asyncio.create_task(client.stream(ask(TEXT, cache=USE)))
    await until(lambda: upstream.asked == 3)
    upstream.gate.set()
    assert not is_hit(await second)
    assert not is_hit(await third)
    assert client.gateway.cache._making._ends == {}


async def test_no_tenant_waits_for_another(client: Any, ask: Any) -> None:
    cache = client.gateway.cache
    lookups = [cache.lookup(ask(TEXT, cache=USE), PLAN, tenant) for tenant in ("one", "two", "one")]
    found = [await lookup.find_or_wait(None, (), Call("/test").with_timeout(0.01)) for lookup in lookups]
    assert found == [None] * 3
    assert [lookup._mine for lookup in lookups] == [True, True, False]
    for lookup in lookups:
        lookup.leave()
        lookup.leave()
    assert cache._making._ends == {}
