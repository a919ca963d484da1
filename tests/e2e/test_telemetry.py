"""Traces and metrics of a whole mesh: one tree from the client to the vendor, every metric served, and no word of people."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from aiohttp import web
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from sluice.gateway.v1.chat_service_pb2 import MidstreamPolicy
from sluice.retrieval.v1.corpus_pb2 import LocalSource, Source
from sluice_client import SluiceClient, question, tracing
from sluice_kit import telemetry
from sluice_kit.errors import SluiceError
from sluice_kit.logs import JsonFormatter
from sluice_kit.telemetry import table
from sluice_kit.telemetry.recording import Recording
from sluice_kit.testing import mesh
from tests.servers.ports import free_ports_in_a_row

from .collector import Traces, collecting, values
from .processes import Up

SECRET: Final = "xyzzy-plugh-4711"
"""Stands in every prompt, answer, key and file of these tests, and nowhere else."""
CHAT: Final = "sluice.gateway.v1.ChatService"
FAILING: Final = "scripted/text?tokens=9&fault=UPSTREAM_OVERLOADED@4"
GIVEN: Final = "0af7651916cd43dd8448eb211c80319c"


class Vendor:
    """A vendor that speaks OpenAI's format, and what headers it was sent. It quotes the prompt in its errors."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        asked = await request.json()
        if asked["model"] == "refuses":
            return web.json_response({"error": {"message": f"never say {SECRET}", "code": SECRET}}, status=400)
        chunk = {"id": "1", "model": "answers-1", "choices": [{"index": 0, "delta": {"content": SECRET}}]}
        end = {"id": "1", "model": "answers-1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        body = "".join(f"data: {json.dumps(one)}\n\n" for one in (chunk, end)) + "data: [DONE]\n\n"
        return web.Response(text=body, content_type="text/event-stream")

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()


class Seen(NamedTuple):
    """What a mesh told while it was used."""

    traces: Traces
    metrics: str
    root: trace.SpanContext
    logs: list[str]
    vendor: Vendor


class _Lines(logging.Handler):
    """Keeps what is logged, as it would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(JsonFormatter("mesh"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


async def scrape(address: str) -> str:
    """Asks for the metrics, as Prometheus does."""

    def get() -> str:
        # This machine is asked, whatever proxies the environment names.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://{address}/metrics") as answer:
            body: bytes = answer.read()
            return body.decode()

    return await asyncio.to_thread(get)


async def _use(client: SluiceClient, folder: Path) -> trace.SpanContext:
    """Uses a mesh in every way that is told of. Returns the span of the client that asked the grounded question."""
    await client.create_corpus("works")
    task = await client.index_corpus("works", Source(local=LocalSource(path=str(folder))))
    await client.watch_task(task.name).result()
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("caller")
    with tracer.start_as_current_span("a caller") as span:
        stream = client.stream_chat(question(f"Where is {SECRET}?", model="scripted/cite", corpora=["works"]))
        async for event in stream:
            if event.event.HasField("accepted"):
                response = event.event.accepted.response
    async for _ in client.resume_chat(response):
        pass
    # Another target makes up for one that breaks off, and one that fails before it says anything.
    spec = question(f"Say {SECRET}", model=FAILING)
    spec.midstream_policy = MidstreamPolicy.MIDSTREAM_POLICY_RESTART
    spec.fallbacks.append("scripted/echo")
    token = tracing.traceparent.set(f"00-{GIVEN}-b7ad6b7169203331-01")
    await client.stream_chat(spec).fold()
    tracing.traceparent.reset(token)
    with pytest.raises(SluiceError):
        await client.chat(question(f"Fail with {SECRET}", model="scripted/text?fault=UPSTREAM_AUTHENTICATION"))
    await client.embed("scripted/embed", [SECRET])
    await client.stream_chat(question(SECRET, model="vendor/answers")).fold()
    with pytest.raises(SluiceError):
        await client.stream_chat(question(SECRET, model="vendor/refuses")).fold()
    return span.get_span_context()


@pytest.fixture(scope="module")
def seen() -> Seen:
    async def run() -> Seen:
        lines = _Lines()
        logging.getLogger("sluice_gateway").addHandler(lines)
        logging.getLogger("sluice_kit").addHandler(lines)
        logging.getLogger("sluice_kit").setLevel(logging.INFO)
        try:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "notes.md").write_text(f"# Notes\n\nThe {SECRET} lies under the bridge.\n")
                settings: dict[str, Any] = {
                    "providers": {"scripted": {"adapter": "scripted"}},
                    "gateway": {"prices": {"scripted/cite": {"input": 3.0, "output": 15.0}}},
                    "retrieval": {
                        "allowed_roots": [folder],
                        "embedder": {"model": "scripted/embed", "dimensions": 256},
                    },
                }
                vendor = Vendor()
                async with collecting() as traces, vendor.served() as url:
                    settings["telemetry"] = {"metrics": "127.0.0.1:0", "otlp": traces.address, "vendor_trace": True}
                    settings["providers"]["vendor"] = {"adapter": "openai", "base_url": url, "api_key": SECRET}
                    async with mesh(settings, retrieval=True) as running:
                        recording = telemetry.current()
                        assert isinstance(recording, Recording)
                        assert recording.address is not None
                        async with SluiceClient(running.address) as client:
                            root = await _use(client, Path(folder))
                        await traces.until("chat cite", "chat echo", "embeddings embed", "chat refuses")
                        metrics = await scrape(recording.address)
                return Seen(traces, metrics, root, lines.lines, vendor)
        finally:
            logging.getLogger("sluice_gateway").removeHandler(lines)
            logging.getLogger("sluice_kit").removeHandler(lines)
            logging.getLogger("sluice_kit").setLevel(logging.NOTSET)

    return asyncio.run(run())


def test_one_question_is_one_tree_from_the_client_to_the_vendor_and_to_the_search(seen: Seen) -> None:
    traces = seen.traces
    own = [span for span in traces.spans if span.trace_id == seen.root.trace_id.to_bytes(16, "big")]
    (served,) = [span for span in own if span.parent_span_id == seen.root.span_id.to_bytes(8, "big")]
    assert served.name == f"/{CHAT}/StreamChat"
    ids = {span.span_id for span in own}
    assert all(span.parent_span_id in ids for span in own if span is not served)  # nothing hangs in the air
    (vendor,) = [span for span in own if span.name == "chat cite"]
    generate = "/sluice.provider.v1.ProviderService/Generate"
    asked = [f"/{CHAT}/StreamChat", "response", "attempt 1", generate, generate, "chat cite"]
    assert traces.path(vendor) == asked
    search = "/sluice.retrieval.v1.SearchService/Search"
    found = [traces.path(span) for span in own if span.name == "embeddings embed"]
    embed, provider = "/sluice.gateway.v1.EmbeddingService/Embed", "/sluice.provider.v1.ProviderService/Embed"
    above = [f"/{CHAT}/StreamChat", "response", "ground", search, search]
    assert [*above, embed, "attempt 1", provider, provider, "embeddings embed"] in found


def test_a_vendors_span_says_what_was_asked_and_what_it_took(seen: Seen) -> None:
    said = values(seen.traces.named("chat cite").attributes)
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "scripted"
    assert said["gen_ai.request.model"] == said["gen_ai.response.model"] == "cite"
    assert said["gen_ai.usage.input_tokens"] > 0
    assert said["gen_ai.usage.output_tokens"] > 0


def test_a_vendor_is_sent_the_trace_if_it_may_be_and_its_words_stay_out_of_it(seen: Seen) -> None:
    answered, refused = seen.traces.named("chat answers"), seen.traces.named("chat refuses")
    told = [headers["traceparent"].split("-")[1:3] for headers in seen.vendor.headers]
    assert told == [[span.trace_id.hex(), span.span_id.hex()] for span in (answered, refused)]
    assert values(answered.attributes)["gen_ai.response.model"] == "answers-1"
    assert values(answered.attributes)["gen_ai.provider.name"] == "openai"
    assert values(refused.attributes)["error.type"] == "UPSTREAM_INVALID_ARGUMENT"
    assert not refused.status.message
    assert not refused.events


def test_what_fails_is_named_by_its_reason_and_what_takes_over_is_an_event(seen: Seen) -> None:
    trace_id = bytes.fromhex(GIVEN)  # of a client that knows no OpenTelemetry
    own = [span for span in seen.traces.spans if span.trace_id == trace_id]
    *failed, last = sorted((span for span in own if span.name.startswith("attempt ")), key=lambda span: span.name)
    assert {values(span.attributes)["error.type"] for span in failed} == {"UPSTREAM_OVERLOADED"}
    assert values(last.attributes)["sluice.model"] == "echo"
    assert [event.name for event in last.events] == ["first content"]
    (response,) = [span for span in own if span.name == "response"]
    assert [event.name for event in response.events][-2:] == ["RouteChanged", "Restarted"]


def test_a_resume_links_to_the_response(seen: Seen) -> None:
    resumed = seen.traces.named(f"/{CHAT}/ResumeChat")
    (link,) = resumed.links
    (response,) = [span for span in seen.traces.spans if span.span_id == link.span_id]
    assert response.name == "response"
    assert response.trace_id == seen.root.trace_id.to_bytes(16, "big") != resumed.trace_id


def test_nothing_that_people_wrote_is_told(seen: Seen) -> None:
    assert not any(SECRET.encode() in message for message in seen.traces.raw)
    assert SECRET not in seen.metrics
    assert not any(SECRET in line for line in seen.logs)


def test_logs_name_the_trace(seen: Seen) -> None:
    ids = {span.trace_id.hex() for span in seen.traces.spans}
    failed = [json.loads(line) for line in seen.logs if '"call failed"' in line]
    assert failed
    assert {line["trace_id"] for line in failed} <= ids


def test_every_metric_of_the_table_is_served_and_no_other(seen: Seen) -> None:
    families = {line.split()[2] for line in seen.metrics.splitlines() if line.startswith("# TYPE ")}
    assert {name for name in families if name.startswith("sluice_")} == {metric.name for metric in table.METRICS}
    assert set(table.PROCESS) <= {name.partition("{")[0].split()[0] for name in seen.metrics.splitlines()}


@pytest.mark.parametrize(
    "line",
    [
        'sluice_attempts_total{model="cite",operation="chat",outcome="completed",provider="scripted",reason=""} 1.0',
        'sluice_responses_total{outcome="failed",reason="UPSTREAM_AUTHENTICATION"} 1.0',
        'sluice_breaker_state{circuit="scripted"} 0.0',
        'sluice_tasks_total{kind="index_corpus",reason="",state="succeeded"} 1.0',
        "sluice_responses_running 0.0",
        "sluice_published_chunks_total 1.0",
        f'sluice_rpc_duration_seconds_count{{code="OK",method="{CHAT}/ResumeChat"}} 1.0',
    ],
)
def test_metrics_count_what_happened(seen: Seen, line: str) -> None:
    assert line in seen.metrics.splitlines()


def test_every_process_of_sluice_up_has_its_own_metrics_and_one_trace_goes_through_them(tmp_path: Path) -> None:
    async def run() -> tuple[Traces, list[str]]:
        async with collecting() as traces:
            port = free_ports_in_a_row(3)
            settings = {
                "providers": {"scripted": {"adapter": "scripted"}},
                "telemetry": {"metrics": f"127.0.0.1:{port}", "otlp": traces.address},
            }
            up = await asyncio.to_thread(Up, tmp_path, settings)
            try:
                address = await asyncio.to_thread(lambda: up.address)
                async with SluiceClient(address) as client:
                    await client.chat(question("Hello", model="scripted/echo"))
                metrics = [await scrape(f"127.0.0.1:{port + place}") for place in range(3)]
            finally:
                code = await asyncio.to_thread(up.end)
            assert code == 0
            return traces, metrics  # what was not sent before the end is sent with it

    traces, (gateway, adapter, retrieval) = asyncio.run(run())
    vendor = traces.named("chat echo")
    services = [traces.services[span.span_id] for span in traces.spans if span.trace_id == vendor.trace_id]
    assert set(services) == {"sluice-gateway", "sluice-providers"}
    assert traces.path(vendor)[0] == f"/{CHAT}/Chat"
    for service, text in (("gateway", gateway), ("providers", adapter), ("retrieval", retrieval)):
        assert f'service="{service}"' in text
    assert "sluice_responses_total" in gateway
    assert "sluice_responses_total" not in adapter
    assert "sluice_tasks_running" in retrieval
