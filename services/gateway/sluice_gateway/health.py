"""How the integrations are: asking one, and following all of them, closely for whoever watches."""

import asyncio
import contextvars
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice.provider.v1.provider_service_pb2 import GetStatusRequest, GetStatusResponse
from sluice_gateway.config import HealthConfig
from sluice_gateway.integrations import Integration, Integrations
from sluice_kit.call import Call
from sluice_kit.errors import CancelledByOwnerError, DeadlineError, InternalError, SluiceError, make_error
from sluice_kit.rpc import SendMessage

log = logging.getLogger(__name__)

HEARTBEAT: Final = pb.WatchIntegrationHealthResponse().SerializeToString()
_METHOD: Final = "/sluice.gateway.v1.IntegrationService/WatchIntegrationHealth"
_POLL_SECONDS: Final = 2.0
"""Longest wait for what an adapter knows of itself."""
_PROBE_SECONDS: Final = 10.0
"""Longest wait for an adapter that asks its vendor."""
_PROBE_SHARE: Final = 0.8
"""Of the caller's time a probe gets this much; the rest is for asking whether the adapter itself still answers."""
_NEARLY: Final = 0.95
"""A probe that took this much of its time was ended by it, on whichever side of the wire."""
_FIRST_SECONDS: Final = 1.0
"""Longest that a new watcher waits for all states; who has not answered by then is sent as not known yet."""
_RECONNECT_SECONDS: Final = 1.0


class Health:
    """Asks integrations how they are, and remembers what only a probe tells: the vendor's version and latency."""

    async def ask(self, integration: Integration, call: Call, *, probe: bool) -> pb.IntegrationHealth:
        """Returns how an integration is, within the call's deadline. Never raises a SluiceError: it is the answer.

        With `probe` the adapter asks its vendor; without, it says what it knows, and version and latency are those of
        the last probe. A vendor that is silent is told from an adapter that is.
        """
        loop = asyncio.get_running_loop()
        limit = _PROBE_SECONDS if probe else _POLL_SECONDS
        left = call.time_remaining()
        if probe and left is not None:
            limit = min(limit, left * _PROBE_SHARE)
        began = loop.time()
        answer = await _status(integration, call.with_timeout(limit), probe=probe)
        if probe and loop.time() - began >= _NEARLY * limit:
            answer = await _status(integration, call.with_timeout(_POLL_SECONDS), probe=False)
            if not isinstance(answer, SluiceError) and not answer.missing_settings:
                return _health(answer, _silent_vendor(integration))
        if isinstance(answer, SluiceError):
            integration.probed = None
            return unreachable(answer)
        integration.adapter = answer.adapter
        if probe:
            integration.probed = answer
        elif (last := integration.probed) is not None:
            answer.version = answer.version or last.version
            if last.HasField("latency"):
                answer.latency.CopyFrom(last.latency)
        return _health(answer)


async def _status(integration: Integration, call: Call, *, probe: bool) -> GetStatusResponse | SluiceError:
    try:
        async with asyncio.timeout_at(call.deadline):
            return await integration.generator.get_status(GetStatusRequest(probe=probe), call)
    except TimeoutError:
        return _silent_adapter(integration)
    except SluiceError as error:
        # A connection that broke on the way has many names, and grpc's own words are for nobody.
        broke = isinstance(error, DeadlineError | CancelledByOwnerError | InternalError) and not error.metadata
        return _silent_adapter(integration) if broke else error


def unreachable(error: SluiceError) -> pb.IntegrationHealth:
    """Returns the health of an integration whose adapter failed to say it."""
    health = pb.IntegrationHealth(
        state=pb.HealthState.HEALTH_STATE_UNREACHABLE, reason=error.reason, detail=error.message
    )
    health.probe_time.FromNanoseconds(time.time_ns())
    return health


def _health(status: GetStatusResponse, failure: SluiceError | None = None) -> pb.IntegrationHealth:
    """Returns what an adapter says as the contract's message. `failure` of the vendor outweighs it."""
    health = pb.IntegrationHealth(version=status.version, missing_settings=status.missing_settings)
    health.probe_time.FromNanoseconds(time.time_ns())
    if status.HasField("latency"):
        health.latency.CopyFrom(status.latency)
    if failure is not None:
        health.state = pb.HealthState.HEALTH_STATE_UNAVAILABLE
        health.reason, health.detail = failure.reason, failure.message
        return health
    if status.missing_settings:
        health.state = pb.HealthState.HEALTH_STATE_MISCONFIGURED
    elif status.available:
        health.state = pb.HealthState.HEALTH_STATE_AVAILABLE
        return health
    else:
        health.state = pb.HealthState.HEALTH_STATE_UNAVAILABLE
    health.reason = status.last_error or ErrorReason.ERROR_REASON_INTEGRATION_MISCONFIGURED
    health.detail = status.detail or (
        f"set {', '.join(status.missing_settings)}" if status.missing_settings else "the vendor does not answer"
    )
    return health


def _silent_adapter(integration: Integration) -> SluiceError:
    text = f"the adapter {integration.id} does not answer"
    return make_error(ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE, text)


def _silent_vendor(integration: Integration) -> SluiceError:
    text = f"the vendor of {integration.id} did not answer the probe in time"
    return make_error(ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT, text)


class _Watcher:
    """One call that follows. It keeps the newest state of each integration and no more, however slowly it reads."""

    def __init__(self, ids: Sequence[str], *, follows_all: bool) -> None:
        self.ids = list(ids)
        self.follows_all = follows_all
        self.pending: dict[str, pb.Integration] = {}
        self.news = asyncio.Event()
        self.scope: asyncio.Timeout | None = None
        """Ends the call, wherever it waits."""


class HealthMonitor:
    """Follows the integrations: closely while somebody watches, else with a probe now and then. One per gateway.

    Each integration that is followed has a task of its own, so that a slow one delays no other.
    """

    def __init__(
        self,
        integrations: Integrations,
        health: Health,
        config: HealthConfig,
        heartbeat_seconds: float,
        on_change: Callable[[str], None],
    ) -> None:
        """`on_change` is told the id of an integration that is in another state than before."""
        self._integrations = integrations
        self._health = health
        self._config = config
        self._heartbeat_seconds = heartbeat_seconds
        self._on_change = on_change
        self._now: dict[str, pb.Integration] = {}
        self._watchers: set[_Watcher] = set()
        self._following: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._probe_due: dict[str, float] = {}
        self._draining = False
        self._closer: dict[str, asyncio.Event] = {}
        """Wakes those who are followed in the background, because somebody watches."""

    def start(self) -> None:
        """Begins to follow in the background, if that is wanted."""
        if self._config.background_seconds:
            for integration in self._integrations:
                self._begin(integration)

    @property
    def running(self) -> int:
        """Number of tasks that follow an integration."""
        return len(self._tasks)

    async def watch(self, only: str, send: SendMessage) -> None:
        """Sends how each integration is, by id, then each change as it is seen, and heartbeats in silence.

        `only` is the id of one integration; empty: all. Goes on until it is cancelled. Raises MODEL_NOT_FOUND for an
        unknown integration, and DRAINING when the gateway shuts down.
        """
        asked = [self._integrations.get(only)] if only else list(self._integrations)
        watcher = _Watcher([integration.id for integration in asked], follows_all=not only)
        self._attach(watcher, asked)
        try:
            async with asyncio.timeout(0 if self._draining else None) as scope:
                watcher.scope = scope
                await self._first(watcher)
                while True:
                    while watcher.pending:
                        # What changes while this write is outstanding replaces what is pending.
                        integration = watcher.pending.pop(next(iter(watcher.pending)))
                        await send(pb.WatchIntegrationHealthResponse(integration=integration))
                    watcher.news.clear()
                    try:
                        async with asyncio.timeout(self._heartbeat_seconds):
                            await watcher.news.wait()
                    except TimeoutError:
                        await send(HEARTBEAT)
        except TimeoutError:
            if not scope.expired():
                raise
            raise make_error(
                ErrorReason.ERROR_REASON_DRAINING, "the gateway is shutting down", retry_after=_RECONNECT_SECONDS
            ) from None
        finally:
            self._detach(watcher)

    def drain(self) -> None:
        """Ends every watch with DRAINING, those included that take nothing."""
        self._draining = True
        for watcher in self._watchers:
            if watcher.scope is not None:
                watcher.scope.reschedule(asyncio.get_running_loop().time())

    def added(self, integration: Integration) -> None:
        """Is told of an integration that came: who watches all watches it, too."""
        for watcher in self._watchers:
            if watcher.follows_all:
                watcher.ids.append(integration.id)
                self._begin(integration)
        if self._config.background_seconds:
            self._begin(integration)

    def removed(self, integration: str) -> None:
        """Is told of an integration that went: who watches it sees that once."""
        task = self._following.pop(integration, None)
        if task is not None:
            task.cancel()
        self._now.pop(integration, None)
        self._probe_due.pop(integration, None)
        self._closer.pop(integration, None)
        gone = pb.Integration(id=integration, health=pb.IntegrationHealth(state=pb.HealthState.HEALTH_STATE_REMOVED))
        for watcher in self._watchers:
            if integration in watcher.ids:
                watcher.ids.remove(integration)
                watcher.pending[integration] = gone
                watcher.news.set()

    async def close(self) -> None:
        """Ends what runs and waits for it."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _first(self, watcher: _Watcher) -> None:
        """Makes the present state of each integration pending, once it is known or has taken too long."""
        try:
            async with asyncio.timeout(_FIRST_SECONDS):
                while any(one not in self._now for one in watcher.ids):
                    watcher.news.clear()
                    await watcher.news.wait()
        except TimeoutError:
            pass  # a slow one does not hold the others up
        gone = {one: last for one, last in watcher.pending.items() if one not in watcher.ids}
        watcher.pending = {one: self._now.get(one) or self._unknown(one) for one in watcher.ids} | gone

    def _unknown(self, one: str) -> pb.Integration:
        integration = self._integrations.get(one)
        return pb.Integration(id=one, adapter=integration.adapter, placement=integration.placement)

    def _attach(self, watcher: _Watcher, asked: Sequence[Integration]) -> None:
        for integration in asked:
            if not self._is_watched(integration.id):
                self._now.pop(integration.id, None)  # too old for who wants to know it now
                self._closer.setdefault(integration.id, asyncio.Event()).set()
            self._begin(integration)
        self._watchers.add(watcher)

    def _begin(self, integration: Integration) -> None:
        """Follows an integration, unless it is followed."""
        if integration.id not in self._following:
            # In a context of its own: it works for every watcher, not for the call that happened to be first.
            task = asyncio.get_running_loop().create_task(
                self._follow(integration), name=f"health of {integration.id}", context=contextvars.Context()
            )
            self._following[integration.id] = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _detach(self, watcher: _Watcher) -> None:
        self._watchers.discard(watcher)
        for one in watcher.ids:
            if not self._is_watched(one) and not self._config.background_seconds:
                self._following.pop(one).cancel()
                self._now.pop(one, None)

    def _is_watched(self, one: str) -> bool:
        return any(one in watcher.ids for watcher in self._watchers)

    async def _follow(self, integration: Integration) -> None:
        try:
            await self._poll(integration)
        except Exception:
            # The others are followed on; this one says so.
            log.exception("cannot follow an integration", extra={"integration": integration.id})
            text = "a defect; the gateway's log has the details"
            self._see(integration, unreachable(make_error(ErrorReason.ERROR_REASON_INTERNAL, text)))

    async def _poll(self, integration: Integration) -> None:
        loop = asyncio.get_running_loop()
        silent: pb.IntegrationHealth | None = None
        if not self._is_watched(integration.id):
            await self._pause(integration.id, random.random())
        while True:
            health = await self._health.ask(integration, Call(_METHOD), probe=False)
            state = health.state
            if silent is not None and state == pb.HealthState.HEALTH_STATE_AVAILABLE:
                health = silent  # the adapter does not know: only the probe that found it can take it back
            self._see(integration, health)
            if state == pb.HealthState.HEALTH_STATE_UNREACHABLE:
                # Whoever comes back may be another version.
                self._probe_due.pop(integration.id, None)
                silent = None
            elif loop.time() >= self._probe_due.get(integration.id, 0.0):
                health = await self._health.ask(integration, Call(_METHOD), probe=True)
                self._probe_due[integration.id] = loop.time() + self._config.probe_seconds
                silent = health if health.reason == ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT else None
                self._see(integration, health)
            # Not at the same moment for all, nor for all gateways.
            await self._pause(integration.id, random.uniform(0.8, 1.2))

    async def _pause(self, one: str, share: float) -> None:
        """Waits until it is time to ask again; in the background for a share of its pause, or until somebody watches."""
        if self._is_watched(one):
            await asyncio.sleep(self._config.poll_seconds)
            return
        closer = self._closer.setdefault(one, asyncio.Event())
        closer.clear()
        try:
            async with asyncio.timeout(self._config.background_seconds * share):
                await closer.wait()
        except TimeoutError:
            self._probe_due.pop(one, None)

    def _see(self, integration: Integration, health: pb.IntegrationHealth) -> None:
        """Notes a state, and shows it to every watcher if it is another one."""
        now = pb.Integration(
            id=integration.id, adapter=integration.adapter, placement=integration.placement, health=health
        )
        if self._following.get(integration.id) is not asyncio.current_task():
            return  # removed meanwhile
        before = self._now.get(integration.id)
        self._now[integration.id] = now
        if before is not None:
            if _essence(before) == _essence(now):
                return
            if before.health.state != health.state:
                self._on_change(integration.id)
                state = pb.HealthState.Name(health.state).removeprefix("HEALTH_STATE_").lower()
                log.info("an integration changed", extra={"integration": integration.id, "state": state})
        for watcher in self._watchers:
            if integration.id in watcher.ids:
                watcher.pending[integration.id] = now
                watcher.news.set()


def _essence(integration: pb.Integration) -> bytes:
    """Returns a state without what changes with every look at it."""
    essence = pb.Integration()
    essence.CopyFrom(integration)
    essence.health.ClearField("latency")
    essence.health.ClearField("probe_time")
    return essence.SerializeToString(deterministic=True)
