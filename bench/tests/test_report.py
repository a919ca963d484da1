"""What the report says of measurements, made up here."""

from collections.abc import Sequence

from bench import report, targets
from bench.runner import Measurement
from bench.tally import Outcome, Spread, Tally


def measurement(
    path: str, scenario: str, number: int, cpu: float, *, tokens: int = 1000, ttft: float = 5.0, done: int = 10
) -> Measurement:
    return Measurement(
        round=number,
        path=path,
        scenario=scenario,
        cpu={"mock": 1.0, "client": 2.0, f"{path}-gateway": cpu},
        memory={f"{path}-gateway": 30 * 2**20},
        memory_before={f"{path}-gateway": 20 * 2**20},
        outcome=Outcome(
            started=10,
            done=done,
            failed=0,
            tokens=tokens,
            messages=10,
            wall=1.0,
            cpu=2.0,
            latency=Spread(1.0, 2.0),
            ttft=Spread(ttft, 9.0),
            lag=Spread(1.0, 2.0),
        ),
    )


def row(lines: Sequence[str], start: str) -> str:
    (found,) = [line for line in lines if line.startswith(start)]
    return found


def test_only_the_paths_own_processes_count() -> None:
    found = measurement("two", "paced", 0, 0.1)
    assert found.own_cpu == 0.1
    assert found.per_unit(found.own_cpu) == 100.0
    assert measurement("two", "unary-c8", 0, 0.1, tokens=0).per_unit(0.1) == 10_000.0
    assert measurement("two", "unary-c8", 0, 0.1, tokens=0, done=0).per_unit(0.1) is None


def test_spread_shows_least_middle_and_most() -> None:
    assert report.spread([3.0, 1.0, 2.0]) == "1–2–3"
    assert report.spread([1234.5]) == "1,234"
    assert report.spread([None, 0.1234]) == "0.123"
    assert report.spread([None]) == "–"


def test_ratios_are_taken_within_a_round() -> None:
    # The second round ran at half the speed, for both alike.
    found = [
        measurement("two", "paced", 0, 0.1),
        measurement("portkey", "paced", 0, 0.2),
        measurement("two", "paced", 1, 0.2),
        measurement("portkey", "paced", 1, 0.4),
    ]
    line = row(targets.section(found), "| paced: CPU against portkey | two |")
    assert line == "| paced: CPU against portkey | two | ≤ 1.2 | 0.50–0.50–0.50 | yes |"


def test_a_missed_target_says_by_how_much() -> None:
    found = [measurement("two", "flood", 0, 0.4), measurement("litellm", "flood", 0, 12.0)]
    line = row(targets.section(found), "| flood: CPU against litellm | two |")
    assert line == "| flood: CPU against litellm | two | ≤ 1/60 | 1/30.0–1/30.0–1/30.0 | no, 2.00 × the target |"


def test_a_round_in_which_a_peer_is_absent_is_left_out() -> None:
    found = [
        measurement("two", "paced", 0, 0.1),
        measurement("two", "paced", 1, 0.3),
        measurement("portkey", "paced", 1, 0.3),
    ]
    assert "1.00–1.00–1.00" in row(targets.section(found), "| paced: CPU against portkey | two |")


def test_added_latency_is_against_the_upstream_itself() -> None:
    found = [measurement("two", "many", 0, 0.1, ttft=8.5), measurement("direct", "many", 0, 0.0, ttft=5.0)]
    line = row(targets.section(found), "| many: added TTFT")
    assert line == "| many: added TTFT p50, ms | two | ≤ 4 | 3.5–3.5–3.5 | yes |"


def test_what_has_no_target_reaches_none() -> None:
    found = [measurement("two", "light", 0, 0.1, ttft=8.5), measurement("direct", "light", 0, 0.0, ttft=5.0)]
    assert targets.section(found)[-2] == "| light: added TTFT p50, ms | two | none | 3.5–3.5–3.5 | – |"


def test_memory_is_what_streams_added() -> None:
    assert targets.stream_memory(measurement("two", "many", 0, 0.1)) == 1024.0


def test_lost_requests_are_shown() -> None:
    found = measurement("two", "paced", 0, 0.1, done=7)
    assert report.lost(found) == 3
    assert "LOST 3" in report.line(found)
    assert "LOST" not in report.line(measurement("two", "paced", 0, 0.1))


def test_a_tally_starts_no_more_than_it_may() -> None:
    tally = Tally(2, 60.0)
    assert [tally.more() for _ in range(4)] == [True, True, False, False]
    assert not Tally(2, -1.0).more()
    tally.failed("first")
    tally.failed("second")
    outcome = tally.outcome(1.0, 0.0)
    assert (outcome.started, outcome.failed, outcome.unfinished, outcome.error) == (2, 2, 0, "first")
