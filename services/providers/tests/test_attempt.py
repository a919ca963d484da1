"""The limits of time of one attempt, by a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.errors import SluiceError
from sluice_providers.attempt import Attempt

from .contract.subject import asking

STARTED = pb.GenerateResponse()
STARTED.events.add().started.model = "m"
TEXT = pb.GenerateResponse()
TEXT.events.add().text_delta.text = "x"
END = pb.GenerateResponse()
END.events.add().completed.SetInParent()


class Clock:
    """A loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        # Long before the real loop's time, so that what is due by this clock is due by that one.
        self.now = asyncio.get_running_loop().time() - 1e6
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        self.timers.append((when, callback))
        return asyncio.get_running_loop().call_soon(lambda: None)

    async def advance(self, seconds: float) -> None:
        """Moves on, and lets all that is due happen in its order."""
        end = self.now + seconds
        while due := sorted((timer for timer in self.timers if timer[0] <= end), key=lambda timer: timer[0]):
            self.timers.remove(due[0])
            self.now = max(self.now, due[0][0])
            due[0][1]()
            for _ in range(5):
                await asyncio.sleep(0)
        self.now = end


class Trial:
    """An attempt whose adapter does what comes through a queue."""

    def __init__(self, send: Callable[[Any], Awaitable[None] | None] = lambda batch: None, **limits: Any) -> None:
        self.clock = Clock()
        values: dict[str, Any] = {"ttft": 10.0, "idle": 2.0, "deadline": None} | limits
        if values["deadline"] is not None:
            values["deadline"] += self.clock.now
        self.attempt = Attempt("vendor", asking("vendor", "m"), send, **values)
        setattr(self.attempt, "_loop", self.clock)  # noqa: B010 - a loop only in the two things that an attempt uses
        self.attempt._begun = self.attempt._last = self.clock.now
        self.rest = asyncio.Event()
        self.rest.set()
        self.steps: asyncio.Queue[pb.GenerateResponse | None] = asyncio.Queue()
        self.task = asyncio.create_task(self.attempt.run(self._work()))

    async def _work(self) -> None:
        while True:
            step = await self.steps.get()
            if step is None:
                self.attempt.touch()
            else:
                await self.attempt.emit(step)
                if step is END:
                    await self.rest.wait()
                    return

    async def does(self, *steps: pb.GenerateResponse | None) -> None:
        """Lets the adapter emit batches; None is a sign of life."""
        for step in steps:
            self.steps.put_nowait(step)
        for _ in range(5 + 2 * len(steps)):
            await asyncio.sleep(0)

    async def failed(self) -> tuple[str, str]:
        with pytest.raises(SluiceError) as caught:
            await asyncio.wait_for(self.task, 60)
        return caught.value.reason_name, caught.value.metadata.get("limit", "")


async def test_slow_but_alive_is_not_idle() -> None:
    trial = Trial()
    await trial.does(STARTED, TEXT)
    for step in (None, TEXT, pb.GenerateResponse()) * 20:
        await trial.clock.advance(1.9)
        await trial.does(step)
    await trial.does(END)
    await asyncio.wait_for(trial.task, 60)


async def test_silence_after_content_is_idle() -> None:
    trial = Trial()
    await trial.does(STARTED, TEXT)
    await trial.clock.advance(1.9)
    assert not trial.task.done()
    await trial.clock.advance(0.2)
    assert await trial.failed() == ("UPSTREAM_TIMEOUT", "idle")


async def test_signs_of_life_are_no_content() -> None:
    trial = Trial()
    await trial.does(STARTED)
    for _ in range(9):
        await trial.clock.advance(1)
        await trial.does(None, pb.GenerateResponse())
    assert not trial.task.done()
    await trial.clock.advance(1.1)
    assert await trial.failed() == ("UPSTREAM_TIMEOUT", "ttft")


async def test_silence_before_content_is_not_idle() -> None:
    trial = Trial()
    await trial.clock.advance(9.9)
    await trial.does(STARTED, TEXT)
    await trial.clock.advance(1.5)
    await trial.does(TEXT, END)
    await asyncio.wait_for(trial.task, 60)


async def test_a_receiver_that_holds_us_up_is_not_the_vendors_silence() -> None:
    room = asyncio.Event()

    async def wait(batch: Any) -> None:
        if batch.events and batch.events[0].HasField("text_delta"):
            await room.wait()

    trial = Trial(wait)
    await trial.does(STARTED, TEXT)
    await trial.clock.advance(1000)
    assert not trial.task.done()
    room.set()
    await trial.does()
    await trial.clock.advance(1.9)
    assert not trial.task.done()
    await trial.clock.advance(0.2)
    assert await trial.failed() == ("UPSTREAM_TIMEOUT", "idle")


@pytest.mark.parametrize("busy", [False, True])
async def test_the_deadline_holds_whatever_comes(busy: bool) -> None:
    trial = Trial(deadline=7.0)
    await trial.does(STARTED)
    for _ in range(6):
        await trial.clock.advance(1)
        await trial.does(*([TEXT] if busy else []))
    assert not trial.task.done()
    await trial.clock.advance(1.1)
    assert await trial.failed() == ("DEADLINE_EXCEEDED", "")


@pytest.mark.parametrize("limits", [{}, {"deadline": 1.0}], ids=["idle", "deadline"])
async def test_a_whole_answer_stays_whole_however_long_its_adapter_lingers(limits: dict[str, Any]) -> None:
    trial = Trial(**limits)
    trial.rest.clear()
    await trial.does(STARTED, TEXT, END)
    assert not trial.task.done()
    await trial.clock.advance(10)
    await asyncio.wait_for(trial.task, 60)


async def test_a_cancelled_attempt_is_no_failure_of_the_vendor() -> None:
    trial = Trial()
    await trial.does(STARTED, TEXT)
    trial.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial.task
