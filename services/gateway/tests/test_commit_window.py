"""The commit window: content is held while it is seen how fast it comes, and no longer."""

from typing import Any

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason

R = ErrorReason


@pytest.mark.parametrize("slow", [True, False])
async def test_a_stream_that_is_too_slow_is_given_up_before_it_is_shown(
    start: Any, ask: Any, placement: str, slow: bool
) -> None:
    """At 100 tokens/s for a window of 50 ms, 20 characters are due: the fast one sends them at once."""
    first = "scripted/text?tokens=40&delay_ms=60000" if slow else "scripted/text?tokens=40&batch=40"
    routes = {
        "default": {
            "targets": [first, "scripted/text?tokens=1"],
            "commit_window_seconds": 0.05,
            "min_tokens_per_second": 100,
        }
    }
    async with start({"routes": routes}, placement) as client:
        seen = await client.stream(ask(""))
        rows = await client.rows("attempts")
    assert seen.error is None
    assert len(seen.text.split()) == (1 if slow else 40)
    assert ("route_changed" in seen.kinds) == slow
    if slow:
        assert (rows[0]["outcome"], rows[0]["reason"]) == ("failed", "UPSTREAM_TIMEOUT")
        # A short answer is not slow: it was whole before the window was over.
        assert rows[1]["outcome"] == "completed"


async def test_the_failure_of_a_slow_stream_names_the_limit(start: Any, ask: Any) -> None:
    limits = {"commit_window_seconds": 0.05, "min_tokens_per_second": 50}
    async with start({"limits": limits}) as client:
        seen = await client.stream(ask("scripted/text?tokens=9&delay_ms=60000"))
        silent = await client.stream(ask("scripted/text?tokens=9&ttft_ms=300&batch=9"))
    assert seen.error is not None
    assert seen.error.reason == R.ERROR_REASON_UPSTREAM_TIMEOUT
    assert seen.error.metadata["limit"] == "rate"
    assert seen.text == ""
    assert silent.error is None  # the window begins with the first content
