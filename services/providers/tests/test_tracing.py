"""Calls of vendors as traces show them: what is said to the vendor itself."""

from collections.abc import AsyncIterator

import pytest

from sluice_kit import telemetry
from sluice_kit.call import Call
from sluice_kit.telemetry import TelemetryConfig
from sluice_kit.telemetry.recording import Recording
from sluice_kit.telemetry.spans import NO_SPAN
from sluice_providers.tracing import asking, vendor_headers


@pytest.fixture(params=[False, True])
async def on(request: pytest.FixtureRequest) -> AsyncIterator[Recording]:
    recording = Recording(TelemetryConfig(otlp="http://127.0.0.1:1", vendor_trace=request.param), "providers", "x")
    before = telemetry.switch(recording)
    try:
        async with recording.running():
            yield recording
    finally:
        telemetry.switch(before)


async def test_vendors_are_told_of_the_trace_only_where_that_is_configured(on: Recording) -> None:
    call = Call("/x.Y/Z", span=on.root("work"))
    with asking(call, "chat", "m", "vendor", "openai") as span:
        told = dict(vendor_headers.get())
    assert told == (dict(span.headers) if on.vendor_trace else {})
    assert not vendor_headers.get()


async def test_without_a_trace_there_is_nothing_to_tell() -> None:
    with asking(Call("/x.Y/Z"), "chat", "m", "vendor", "openai") as span:
        assert span is NO_SPAN
        assert not vendor_headers.get()
