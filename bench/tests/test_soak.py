"""The soak: what it computes, and a short run in which everything that users do goes as it should."""

import asyncio
import json
import math
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from bench.process import free_port
from bench.soak import report, watched
from bench.soak.gauges import Held, Sample, disk, read_metrics
from bench.soak.report import Run
from bench.soak.slope import slope

ROOT = Path(__file__).resolve().parents[2]


def test_what_grows_is_told_from_what_swings() -> None:
    xs = [number / 10 for number in range(80)]
    grows = slope(xs, [3 * x + (number % 5) for number, x in enumerate(xs)])
    assert grows.value == pytest.approx(3, abs=0.1)
    assert grows.grows
    swings = slope(xs, [100 * math.sin(x) for x in xs])
    assert not swings.grows
    assert slope(xs, [7.0] * 80) == (0, 0)
    assert not slope(xs, [-x for x in xs]).grows


def test_too_few_samples_have_no_spread() -> None:
    few = slope([1, 2, 3], [1, 2, 3])
    assert few.value == pytest.approx(1)
    assert math.isnan(few.error)
    assert report.written(few, 1) == "–"
    assert math.isnan(slope([1], [1]).value)
    assert math.isnan(slope([1, 1], [1, 2]).value)


async def test_what_is_alive_is_counted() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    before = watched.count(types=True)
    tasks = [asyncio.create_task(wait()) for _ in range(3)]
    after = watched.count(types=True)
    assert after["tasks"] == before["tasks"] + 3
    assert after["coroutines"][wait.__qualname__] == 3
    assert after["types"]["_asyncio.Task"] >= 3
    assert "types" not in watched.count(types=False)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def test_without_a_loop_there_are_no_tasks() -> None:
    assert watched.count(types=False)["tasks"] == 0


def test_metrics_are_added_up_over_their_labels() -> None:
    text = '# HELP a_total x\na_total{model="m{1}"} 2.0\na_total{model="n"} 3.0\nb 1e3\n'
    assert read_metrics(text)["b"] == 1000
    assert read_metrics(text)["a_total"] >= 3


def test_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "gateway").mkdir(parents=True)
    (state / "retrieval" / "texts").mkdir(parents=True)
    for name, size in (("gateway/records.db", 10), ("gateway/records.db-wal", 5), ("retrieval/texts/a", 3)):
        (state / name).write_bytes(b"x" * size)
    (tmp_path / "process.log").write_bytes(b"xx")
    assert disk(state, [tmp_path / "process.log", tmp_path / "none.log"]) == {
        "gateway/records.db": 10,
        "gateway/records.db-wal": 5,
        "retrieval/ other": 3,
        "process logs": 2,
    }


def _sample(number: int, *, at_rest: str = "", more: int = 0) -> Sample:
    held = Held(
        rss=2**20 + 1024 * number,
        fds=10,
        threads=2,
        tasks=3,
        blocks=1000,
        series=4,
        types={"some.Type": 5 + more, "other.Type": 9},
        coroutines={"work": 1 + more // 50},
    )
    return Sample(
        path="two",
        seconds=float(number),
        requests=1000 * number,
        held={"gateway": held},
        disk={"process logs": 1024 * number},
        at_rest=at_rest,
    )


def test_the_report_says_what_grows() -> None:
    samples = [
        _sample(0, at_rest="before"),
        *(_sample(number) for number in range(32)),
        _sample(32, at_rest="after", more=100),
    ]
    run = Run(
        path="two",
        rate=40,
        seconds=800,
        begun=32_000,
        skipped=1,
        visitors=9,
        done={"ask": 31_998},
        failed=1,
        mistakes=["ask: TimeoutError()"],
    )
    text = report.markdown({"python": "3"}, [run], samples)
    assert "| gateway | +1.0 ± 0.0 **grows** | +0.0 ± 0.0 |" in text
    assert "| process logs | +1.0 ± 0.0 **grows** | 0 → 32 |" in text
    assert "- gateway: `some.Type` +100, `work` +2" in text
    assert "- ask: TimeoutError()" in text
    assert "at rest, before" in report.line(samples[0])


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.mock", str(port), cwd=ROOT)
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)  # it has yet to listen, which nothing else tells
                continue
            writer.close()
            break
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        await process.wait()


async def test_the_upstream_refuses_breaks_off_and_embeds(upstream: str) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{upstream}/chat/completions", json={"model": "m-e429", "stream": True}) as reply:
            assert reply.status == 429
            assert "error" in await reply.json()
        async with session.post(f"{upstream}/embeddings", json={"model": "m", "input": ["x"]}) as reply:
            assert len((await reply.json())["data"]) == 1
        async with session.post(f"{upstream}/chat/completions", json={"model": "m-x5", "stream": True}) as reply:
            with pytest.raises(aiohttp.ClientPayloadError):
                await reply.read()
        async with session.post(f"{upstream}/chat/completions", json={"model": "m-n5", "stream": True}) as reply:
            assert (await reply.read()).count(b'"content"') == 6  # five tokens, after the role


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory, files and threads are read from /proc")
async def test_all_that_users_do_goes_as_it_should(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.soak",
        "--quick",
        "--paths",
        "colocated",
        "--out",
        str(tmp_path / "run"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    text, log = await process.communicate()
    assert process.returncode == 0, f"{text.decode()}\n{log.decode()}"
    _, *rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    (run,) = [row for row in rows if row["kind"] == "run"]
    samples = [row for row in rows if row["kind"] == "sample"]
    assert run["failed"] == 0
    assert {"ask", "read", "reload", "register"} <= set(run["done"])
    assert [row["at_rest"] for row in samples if row["at_rest"]] == ["before", "after"]
    assert all(held["rss"] > 0 and held["fds"] > 0 for row in samples for held in row["held"].values())
    assert (tmp_path / "run.md").read_text() == text.decode()
