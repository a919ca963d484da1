"""Telemetry: off it loads nothing, on it listens, sends, counts, and ends, also where nobody takes what it sends."""

import asyncio
import json
import logging
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit import telemetry
from sluice_kit.call import Call, current_call
from sluice_kit.channels import Calling, open_channel, outgoing, trace_headers
from sluice_kit.config import ConfigError
from sluice_kit.errors import make_error
from sluice_kit.logs import JsonFormatter
from sluice_kit.server import BindError
from sluice_kit.telemetry import TelemetryConfig, table
from sluice_kit.telemetry.base import OFF, AttemptEnd
from sluice_kit.telemetry.labels import OTHER, Targets
from sluice_kit.telemetry.recording import Recording
from sluice_kit.telemetry.spans import NO_SPAN, PassedOn
from sluice_kit.testing import document_of, mesh

LOADED = """
import asyncio, json, sys
from sluice_kit.testing import mesh
from sluice_client import SluiceClient, question

async def main():
    async with mesh() as running, SluiceClient(running.address) as client:
        await client.chat(question("Hello", model="scripted/echo"))

asyncio.run(main())
names = ("opentelemetry", "prometheus_client")
print(json.dumps([name for name in sys.modules if name.split(".")[0] in names]))
"""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks this machine, whatever proxies the environment names."""


def recording(**settings: object) -> Recording:
    return Recording(TelemetryConfig(**settings), "gateway", "")  # type: ignore[arg-type]  # as written by a test


async def scrape(on: Recording) -> str:
    def get() -> str:
        with DIRECT.open(f"http://{on.address}/metrics") as answer:
            body: bytes = answer.read()
            return body.decode()

    return await asyncio.to_thread(get)


def test_a_mesh_without_telemetry_loads_none_of_its_libraries() -> None:
    ran = subprocess.run([sys.executable, "-c", LOADED], check=True, capture_output=True, text=True)
    assert json.loads(ran.stdout) == []


async def test_off_a_call_is_passed_on_as_it_is() -> None:
    call = Call("/x.Y/Z")
    assert call.span is NO_SPAN
    assert call.under(call.span.child("part")) is call
    with Calling(call, "/x.Y/Z", 5.0) as options:
        assert options == outgoing(call, 5.0)
    assert [key for key, _ in outgoing(call)["metadata"]] == ["sluice-identity-bin", "x-request-id"]
    assert OFF.rpc("/x.Y/Z").begins(()) is OFF.rpc("/a.B/C").begins(())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"metrics": "9464"}, "expected host:port"),
        ({"metrics": "127.0.0.1:http"}, "expected host:port"),
        ({"metrics": "0.0.0.0:9464"}, "can be reached from other machines"),
        ({"otlp": "http://127.0.0.1:4317", "sample_ratio": 2}, "sample_ratio"),
        ({"otlp": "http://127.0.0.1:4317", "otlp_headers": {"key": "${NO_SUCH_KEY}"}}, "NO_SUCH_KEY is not set"),
    ],
)
def test_a_section_that_cannot_be_used_is_refused(section: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        telemetry.configure(document_of({"telemetry": section}, tmp_path), "gateway")
    assert telemetry.current() is OFF


async def test_an_address_that_is_taken_is_an_error_at_once() -> None:
    first = recording(metrics="127.0.0.1:0")
    async with first.running():
        second = recording(metrics=first.address)
        with pytest.raises(BindError, match="cannot serve metrics on"):
            async with second.running():
                pass


async def test_gauges_are_read_when_they_are_asked_for_and_models_are_bounded() -> None:
    on = recording(metrics="127.0.0.1:0")
    on._targets = Targets(limit=2)
    running = [1.0]
    async with on.running():
        on.watch(table.RESPONSES_RUNNING, lambda: running[0])
        running[0] = 2.0
        for number in range(4):
            tokens = {"input": 10, "output": 0}
            on.attempt_ended(AttemptEnd("chat", "vendor", f"m{number}", "completed", "", tokens, 1_500_000_000, 0.3))
        on.watcher_stalled()
        meter = on.stream()
        assert meter is not None
        for now in (10.0, 10.004, 10.3, 99.0):
            meter.batch(now, 3)
        text = await scrape(on)
    assert "sluice_responses_running 2.0" in text
    assert 'sluice_tokens_total{kind="input",model="m1",provider="vendor"} 10.0' in text
    assert 'sluice_tokens_total{kind="input",model="other",provider="other"} 20.0' in text
    assert 'kind="output"' not in text
    assert f'sluice_cost_usd_total{{model="{OTHER}",provider="{OTHER}"}} 3.0' in text
    assert "sluice_watchers_stalled_total 1.0" in text
    assert 'sluice_stream_gap_seconds_bucket{le="0.005"} 1.0' in text
    assert 'sluice_stream_gap_seconds_bucket{le="0.5"} 2.0' in text
    assert "sluice_stream_gap_seconds_count 3.0" in text
    assert "sluice_stream_events_total 12.0" in text


async def test_a_loop_that_is_stuck_shows_its_last_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    on = recording(metrics="127.0.0.1:0")
    running = [1.0]
    async with on.running():
        on.watch(table.RESPONSES_RUNNING, lambda: running[0])
        assert "sluice_responses_running 1.0" in await scrape(on)
        running[0] = 2.0
        monkeypatch.setattr("sluice_kit.telemetry.metrics._READ_SECONDS", 0.01)
        with DIRECT.open(f"http://{on.address}/metrics") as answer:  # in the loop's thread, so that it is stuck
            assert b"sluice_responses_running 1.0" in answer.read()


async def test_spans_for_a_collector_that_is_away_are_dropped_and_the_end_does_not_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    on = recording(metrics="127.0.0.1:0", otlp="http://127.0.0.1:1")
    with caplog.at_level(logging.WARNING):
        async with on.running():
            for _ in range(3):
                on.root("work").end()
    assert [record.message for record in caplog.records if "collector" in record.message] == [
        "the collector of traces does not answer; spans are dropped until it does"
    ]
    assert on._metrics is not None
    assert on._metrics.number(table.SPANS, "dropped").value == 3.0


async def test_a_span_passes_its_context_on_and_names_failures_by_their_reason() -> None:
    on = recording(otlp="http://127.0.0.1:1")
    try:
        given = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "a=b")
        span = on.served("/x.Y/Z", given)
        head = dict(span.headers)
        assert head["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
        assert "b7ad6b7169203331" not in head["traceparent"]
        assert head["tracestate"] == "a=b"
        current_call.set(Call("/x.Y/Z", span=span))
        assert trace_headers() == span.headers
        record = logging.LogRecord("x", logging.INFO, "", 0, "hello", None, None)
        assert JsonFormatter("s").fields(record)["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
        with pytest.raises(ValueError, match="secret"), span.child("part") as part:
            raise ValueError("a secret")
        seen = part._span  # type: ignore[attr-defined]  # what the SDK recorded
        assert seen.attributes["error.type"] == "ValueError"
        assert not seen.events
        assert seen.status.description is None
        failure = make_error(ErrorReason.ERROR_REASON_PERMISSION_DENIED, "the message stays here")
        with pytest.raises(type(failure)), span.client("/x.Y/Other") as part:
            raise failure
        assert part._span.attributes["error.type"] == "PERMISSION_DENIED"  # type: ignore[attr-defined]  # as above
        refused = on.served("/x.Y/Z", (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),))
        assert isinstance(refused, PassedOn)
        assert refused.child("part") is refused
        assert refused.headers[0][1].endswith("-00")
    finally:
        async with on.running():
            pass


async def test_none_of_the_traces_is_recorded_at_a_ratio_of_zero() -> None:
    on = recording(otlp="http://127.0.0.1:1", sample_ratio=0.0)
    span = on.served("/x.Y/Z", (("traceparent", "nonsense"),))
    assert isinstance(span, PassedOn)
    assert span.headers[0][1].startswith(f"00-{span.trace_id}-")
    assert span.headers[0][1].endswith("-00")
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    on.served("/x.Y/Z", (("traceparent", given),)).end()  # its caller has decided otherwise
    assert not isinstance(on.served("/x.Y/Z", (("traceparent", given),)), PassedOn)
    async with on.running():
        pass


async def test_calls_are_counted_by_the_code_they_end_with() -> None:
    async with mesh({"telemetry": {"metrics": "127.0.0.1:0"}}) as running:
        on = telemetry.current()
        assert isinstance(on, Recording)
        async with open_channel(running.address) as channel:
            method: Any = channel.unary_unary("/sluice.gateway.v1.ChatService/GetResponse")
            with pytest.raises(grpc.aio.AioRpcError):
                await method(b"")
        text = await scrape(on)
    assert (
        'rpc_duration_seconds_count{code="INVALID_ARGUMENT",method="sluice.gateway.v1.ChatService/GetResponse"} 1'
        in text
    )
    assert 'sluice_rpc_in_flight{method="sluice.gateway.v1.ChatService/GetResponse"} 0.0' in text
    assert telemetry.current() is OFF
