"""Hedge: a second attempt beside one that is slow to begin. The first content wins."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from sluice.gateway.v1.chat_service_pb2 import ChatSpec
from sluice_gateway.config import RoutePolicy
from sluice_gateway.pipeline.relay import Relay
from sluice_gateway.pipeline.retry import FALL_BACK_ON
from sluice_kit.errors import SluiceError, forget_frames


def hedge_delay(spec: ChatSpec, route: RoutePolicy) -> float | None:
    """Returns how long the first target may be without content, in seconds; None: there is no hedge."""
    if spec.background:
        return None  # nobody waits for it
    if spec.HasField("hedge"):
        return spec.hedge.delay.ToNanoseconds() / 1e9 or None
    return route.hedge_seconds


class Race:
    """Two attempts at one answer, each in a task of its own. Both have ended when `run` returns or raises."""

    def __init__(
        self,
        first: Relay,
        delay: float,
        *,
        attempt: Callable[[Relay], Awaitable[None]],
        second: Callable[["Race"], Awaitable[Relay | None]],
        abandon: Callable[[Relay], None],
    ) -> None:
        """`attempt` runs one; `abandon` is told of one on record that never came to run.

        `second` puts the other one on record when `delay` seconds are over, if there may be one; after that it asks
        `undecided` whether there still should be.
        """
        self._first = first
        self._delay = delay
        self._attempt = attempt
        self._second = second
        self._abandon = abandon
        self._tasks: dict[asyncio.Task[None], Relay] = {}
        self._begun: set[Relay] = set()
        self._winner: Relay | None = None

    async def run(self) -> tuple[Relay, SluiceError | None]:
        """Returns the attempt that delivered; or the one that ended last, or broke off, and its failure."""
        self._start(self._first)
        try:
            await asyncio.wait(self._tasks, timeout=self._delay)
            if self.undecided() and (other := await self._second(self)) is not None:
                self._start(other)
            return await self._decide()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            for task, relay in self._tasks.items():
                if task.cancelled():
                    with contextlib.suppress(asyncio.CancelledError):
                        task.result()  # gives up what it keeps: the frames that it ended in, one of which knows the task
                if (
                    relay not in self._begun
                ):  # a task that is cancelled before its first step never enters its coroutine
                    self._abandon(relay)
                relay.gate = None
            self._tasks.clear()  # its tasks and gates hold the race, and what they work on

    def undecided(self) -> bool:
        """Whether the first attempt runs and has sent no content."""
        return self._winner is None and not any(task.done() for task in self._tasks)

    def _start(self, relay: Relay) -> None:
        inner = relay.gate
        relay.gate = lambda: self._claim(relay) and (inner is None or inner())

        async def run() -> None:
            self._begun.add(relay)
            await self._attempt(relay)

        self._tasks[asyncio.get_running_loop().create_task(run())] = relay

    def _claim(self, relay: Relay) -> bool:
        """Is asked with the first content of an attempt: the first of both to ask wins, and the other is cancelled."""
        if self._winner is None:
            self._winner = relay
            for task, other in self._tasks.items():
                if other is not relay:
                    task.cancel()
        return self._winner is relay

    async def _decide(self) -> tuple[Relay, SluiceError | None]:
        running = set(self._tasks)
        last: tuple[Relay, SluiceError | None] | None = None
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            ended = [
                (self._tasks[task], _failure(task))
                for task in done
                if self._winner in (None, self._tasks[task]) and not task.cancelled()
            ]
            for relay, failure in ended:
                if failure is None or relay.committed:
                    return relay, failure
            for relay, failure in ended:
                assert failure is not None
                last = relay, failure
                if failure.reason not in FALL_BACK_ON:
                    return last
                for task in running:
                    _say_why(self._tasks[task], failure)
        if last is None:
            raise asyncio.CancelledError  # both were cancelled, so everything is
        return last


def _failure(task: asyncio.Task[None]) -> SluiceError | None:
    error = task.exception()
    if error is None:
        return None
    if not isinstance(error, SluiceError):
        raise error
    forget_frames(error)
    return error


def _say_why(relay: Relay, failure: SluiceError) -> None:
    """Has the RouteChanged of an attempt, if it comes to speak, say what the other one failed with."""
    for event in relay.preamble:
        if event.HasField("route_changed"):
            event.route_changed.reason = failure.reason
