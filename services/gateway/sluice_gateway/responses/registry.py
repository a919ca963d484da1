"""The responses this gateway holds: admission, idempotency, retention."""

import asyncio
import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1.chat_service_pb2 import ChatSpec
from sluice_gateway.config import GatewayConfig
from sluice_gateway.conversations.conversations import Conversations
from sluice_gateway.pipeline.needs import needs_of
from sluice_gateway.pipeline.plan import Planner
from sluice_gateway.pipeline.run import Job
from sluice_gateway.records.ledger import Claim, Ledger
from sluice_gateway.refusal import too_many
from sluice_gateway.responses.made import made_by_attempts
from sluice_gateway.responses.response import Response, State
from sluice_gateway.responses.store import ElsewhereError, StoreUnavailableError, Writer, lost, unavailable
from sluice_gateway.responses.watch import announce_shutdown, tend
from sluice_kit.call import Call
from sluice_kit.errors import NotFoundError, SluiceError, make_error, reason_name
from sluice_kit.health import Check
from sluice_kit.ids import new_id
from sluice_kit.telemetry import current

if TYPE_CHECKING:
    from sluice_gateway.responses.redis_log import RedisStore

_OVERHEAD_BYTES: Final = 4096
"""What an ended response costs beside its log."""
_TICK_SECONDS: Final = 1.0
_ROW_KEY: Final = re.compile("[0-9a-f]{1,15}|[0-7][0-9a-f]{15}")
"""A key as the beginning of a response's id: hexadecimal, and not above what a database's integer holds."""

Run = Callable[[Response, Job], Coroutine[Any, Any, None]]


class Responses:
    """Every response of this process, by its id. For the event loop's thread."""

    def __init__(
        self, config: GatewayConfig, planner: Planner, ledger: Ledger, run: Run, conversations: Conversations
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._planner = planner
        self._run = run
        self._conversations = conversations
        conversations.forget = self.forget
        self._by_id: dict[str, Response] = {}
        self._by_key: dict[tuple[str, str, str], Response] = {}
        self._ended: OrderedDict[str, Response] = OrderedDict()
        self._condensed: OrderedDict[str, Response] = OrderedDict()
        self._running: Counter[str] = Counter()
        self._total_running = 0
        self._bytes = 0
        self._tick: asyncio.TimerHandle | None = None
        self._store: RedisStore | None = None
        self._telemetry = current()

    def share(self, store: "RedisStore") -> None:
        """Keeps the logs where other gateways find them, instead of in this process alone. Before `start`."""
        self._store = store
        store.on_cancel = self._cancel_by_id
        store.on_lost = self._on_lost
        self._ledger.on_left(store.look_at)

    @property
    def running(self) -> int:
        """Number of responses being generated."""
        return self._total_running

    @property
    def kept_bytes(self) -> int:
        """Bytes held by logs and ended responses."""
        return self._bytes

    def backlogs(self) -> tuple[int, int, int]:
        """Returns how many calls read what is being made, and in bytes how far the last of them and the store are behind."""
        live = self._live()
        behind = [response.log.written - watcher.position for response in live for watcher in response.watchers]
        stored = sum(response.writer.backlog for response in live if response.writer is not None)
        return len(behind), max(0, *behind) if behind else 0, stored

    def start(self) -> None:
        """Begins to look after watchers and retention."""
        if self._store is not None:
            self._store.start()
        self._schedule()

    def _schedule(self) -> None:
        self._tick = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._on_tick)

    def _on_tick(self) -> None:
        now = asyncio.get_running_loop().time()
        tend(chain(self._by_id.values(), self._mirrors()), self._config.watchers, now)
        self._expire(now)
        self._schedule()

    def _expire(self, now: float) -> None:
        """Ended responses lose their events first and their answers later."""
        limits = self._config.log
        for response in list(self._ended.values()):
            if now - response.end_time < limits.retention_seconds:
                break
            if limits.answer_seconds <= limits.retention_seconds:
                self._forget(response)
            elif not response.watchers:
                self._bytes -= response.size
                response.condense()
                self._bytes += response.size
                del self._ended[response.id]
                self._condensed[response.id] = response
        for response in list(self._condensed.values()):
            if now - response.end_time < limits.answer_seconds:
                break
            self._forget(response)

    def open(self, method: str, request_id: str, spec: ChatSpec, call: Call) -> Response:
        """Returns the response to a request: a new one that runs, or that of an earlier request with the same id.

        Raises REQUEST_ID_REUSED, TOO_MANY_IN_FLIGHT, MODEL_NOT_FOUND or CONVERSATION_BUSY.
        """
        key = (call.tenant, method, request_id.lower())
        fingerprint = b""
        if request_id:
            # Deterministic, so that the same request from another client, or with its labels in another order, is
            # recognised.
            fingerprint = hashlib.sha256(spec.SerializeToString(deterministic=True)).digest()
            earlier = self._by_key.get(key)
            if earlier is not None:
                if earlier.fingerprint != fingerprint:
                    raise make_error(
                        ErrorReason.ERROR_REASON_REQUEST_ID_REUSED, "this request_id was used for another request"
                    )
                call.span.link(earlier.span)
                return earlier
        self._admit(call.tenant)
        with call.span.child("plan"):
            plan = self._planner.plan_answer(spec.model, spec.fallbacks)
        talk = self._conversations.enter(call.tenant, spec) if spec.conversation else None
        key_of_row = self._ledger.new_key()
        response = Response(
            # The row can be found by the name alone, and the name cannot be guessed from it.
            f"{key_of_row:x}-{new_id()[:16]}",
            call.identity,
            row_key=key_of_row,
            log_bytes=self._config.log.response_bytes,
            queue_bytes=self._config.watchers.queue_bytes,
            grace=spec.detach_grace.ToTimedelta().total_seconds() if spec.HasField("detach_grace") else 0.0,
            background=spec.background,
            on_growth=self._on_growth,
            on_end=self._on_end,
        )
        response.fingerprint = fingerprint
        response.span = call.span.child("response", {"sluice.response": response.name, "sluice.model": spec.model})
        if talk is not None:
            talk.response = response
            response.conversation = spec.conversation
        duration = self._duration(spec, response, call, plan.limits.total_seconds)
        loop = asyncio.get_running_loop()
        ends = loop.time() + duration
        own = Call(call.method, call.identity, ends, call.metadata, response.span)
        whole, needs = method == "Chat", needs_of(spec)
        job = Job(method, request_id, spec, plan, own, whole=whole, talk=talk, needs=needs)
        # From here on nothing fails, so what is counted ends.
        if request_id:
            response.key = key
            self._by_key[key] = response
        self._by_id[response.id] = response
        self._running[call.tenant] += 1
        self._total_running += 1
        work = self._run(response, job) if self._store is None else self._make(self._store, response, job)
        task = loop.create_task(work)
        # A task that is cancelled before its first step never enters its coroutine.
        task.add_done_callback(lambda _: response.abandoned())
        if talk is not None:
            task.add_done_callback(lambda _: talk.leave())
        response.task = task
        return response

    async def _make(self, store: "RedisStore", response: Response, job: Job) -> None:
        """Makes a response whose log is in a store."""
        try:
            other = await store.open(response, response.key)
        except StoreUnavailableError:
            response.finish(State.FAILED, unavailable())
            return
        except SluiceError as error:
            response.finish(State.FAILED, error)
            return
        if other is not None:
            elsewhere = ElsewhereError("another gateway has it", metadata={"resource": f"responses/{other}"})
            response.finish(State.FAILED, elsewhere)
            return
        redis = self._config.log.redis
        response.writer = Writer(response, store, unlogged=redis is not None and redis.on_loss == "unlogged")
        await self._run(response, job)

    def _duration(self, spec: ChatSpec, response: Response, call: Call, route_seconds: float) -> float:
        """Returns how long the response may take, in seconds."""
        if spec.HasField("max_duration"):
            return spec.max_duration.ToTimedelta().total_seconds()
        left = call.time_remaining()
        if left is None or response.background or response.grace > 0:
            return route_seconds
        return min(left, route_seconds)

    def _admit(self, tenant: str) -> None:
        limits = self._config.admission
        if self._total_running >= limits.in_flight:
            raise too_many("the gateway runs as many responses as it may", "admission.in_flight", limits.in_flight)
        if self._running[tenant] >= limits.in_flight_per_tenant:
            what, limit = "this tenant runs as many responses as it may", limits.in_flight_per_tenant
            raise too_many(what, "admission.in_flight_per_tenant", limit)
        if self._bytes > self._config.log.total_bytes:
            limit = self._config.log.total_bytes
            raise too_many("the gateway holds as many bytes of events as it may", "log.total_bytes", limit)

    async def find(self, name: str, tenant: str) -> Response:
        """Returns a response by its resource name, also one that another gateway makes.

        Raises what `get` does, and STORE_UNAVAILABLE.
        """
        response_id = name.removeprefix("responses/")
        if self._store is not None and response_id not in self._by_id:
            try:
                mirror = await self._store.find(response_id, tenant)
            except StoreUnavailableError:
                raise unavailable() from None
            if mirror is not None:
                return mirror
        return await self.get(name, tenant)

    async def cancel(self, response: Response) -> None:
        """Cancels a response, wherever it is made. Raises STORE_UNAVAILABLE."""
        if self._store is None or not response.remote:
            response.cancel()
            return
        try:
            await self._store.cancel(response.id)
        except StoreUnavailableError:
            raise unavailable() from None

    def _cancel_by_id(self, response_id: str) -> None:
        response = self._by_id.get(response_id)
        if response is not None:
            response.cancel()

    def _on_lost(self, response: Response) -> None:
        """Writes down the end of a response whose gateway died, where that gateway's records are these."""
        self._ledger.response_left(response, made_by_attempts(response))
        if response.error is None or response.error.reason != ErrorReason.ERROR_REASON_RESPONSE_LOST:
            # Its gateway had ended it, and died before the end was on record.
            self._ledger.response_known(response, response.answer().completed.attempts)

    async def get(self, name: str, tenant: str) -> Response:
        """Returns a response by its resource name.

        Raises RESPONSE_LOST for one that was running when the gateway was restarted, NotFoundError for one that is no
        longer kept or never was; another tenant's does not exist either.
        """
        response = self._by_id.get(name.removeprefix("responses/"))
        if response is not None and response.tenant == tenant:
            return response
        claim = await self._on_record(name.removeprefix("responses/"), tenant)
        if claim is not None and claim.reason == reason_name(ErrorReason.ERROR_REASON_RESPONSE_LOST):
            raise make_error(
                ErrorReason.ERROR_REASON_RESPONSE_LOST,
                "the gateway was restarted while this response ran; ask again with a new request_id",
                metadata={"resource": name},
            )
        if claim is not None:
            raise NotFoundError(f"{name} has ended and is no longer kept", metadata={"resource": name})
        raise NotFoundError(f"no {name}", metadata={"resource": name})

    async def _on_record(self, response_id: str, tenant: str) -> Claim | None:
        key = response_id.partition("-")[0]
        if not _ROW_KEY.fullmatch(key):
            return None  # not a name of ours
        return await self._ledger.find(tenant, int(key, 16), response_id)

    def _on_growth(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._config.log.total_bytes:
            self._make_room()

    def _on_end(self, response: Response) -> None:
        self._running[response.tenant] -= 1
        if not self._running[response.tenant]:
            del self._running[response.tenant]
        self._total_running -= 1
        self._tell_end(response)
        self._bytes += _OVERHEAD_BYTES
        self._ended[response.id] = response
        if response.overruled and response.task is not None and response.task.done():
            self._ledger.response_ended(response)
        if response.log.last_sequence == 0:
            if self._store is not None and not isinstance(response.error, ElsewhereError):
                self._store.free(response)
            # It was never accepted, so there is nothing to come back for, and its request id is free again.
            self._forget(response)
        elif self._bytes > self._config.log.total_bytes:
            self._make_room()

    def _tell_end(self, response: Response) -> None:
        error = response.error
        reason = error.reason_name if error is not None else ""
        if not isinstance(error, ElsewhereError):
            self._telemetry.response_ended(response.state.value, reason, response.age())
        if reason:
            response.span.failed(reason)
        response.span.end()

    def _make_room(self) -> None:
        for response in [*self._condensed.values(), *self._ended.values()]:
            if self._bytes <= self._config.log.total_bytes:
                return
            if not response.watchers:
                self._forget(response)

    def _forget(self, response: Response) -> None:
        if self._ended.pop(response.id, None) is None:
            del self._condensed[response.id]
        del self._by_id[response.id]
        if response.key is not None and self._by_key.get(response.key) is response:
            del self._by_key[response.key]
        self._bytes -= response.size + _OVERHEAD_BYTES

    def forget(self, names: Iterable[tuple[str, str]]) -> None:
        """Gives up ended responses, by tenant and name, before their time."""
        for tenant, name in names:
            response_id = name.removeprefix("responses/")
            response = self._by_id.get(response_id)
            if response is not None and response.tenant == tenant and response.ended:
                self._forget(response)
            if self._store is not None:
                self._store.forget(response_id)

    def announce_shutdown(self, grace: float) -> None:
        """Tells every watcher that the gateway will go away."""
        announce_shutdown(chain(self._live(), self._mirrors()), grace)

    def _live(self) -> list[Response]:
        """Returns those that have not ended."""
        return [response for response in self._by_id.values() if not response.ended]

    def _mirrors(self) -> Iterable[Response]:
        return () if self._store is None else self._store.mirrors()

    @property
    def needs(self) -> dict[str, Check]:
        """What no response can be made without; see `sluice_kit.health`."""
        return {} if self._store is None else {"response log": self._store.ping}

    async def drain(self, grace: float) -> None:
        """Waits until no response runs any more, at most `grace` seconds, and ends those that still do."""
        ends = [response.done for response in self._live()]
        if ends and grace > 0:
            await asyncio.wait(ends, timeout=grace)
        await self._end_all()

    async def close(self) -> None:
        """Ends what still runs, and waits for it."""
        if self._tick is not None:
            self._tick.cancel()
        await self._end_all()
        if self._store is not None:
            await self._store.close()

    async def _end_all(self) -> None:
        """Ends what still runs as lost: it is not found at another gateway, nor here after a restart."""
        tasks = []
        live = list(self._live())
        for response in live:
            response.cancel(lost(response.name))
            if response.task is not None:
                tasks.append(response.task)
        if tasks:
            await asyncio.wait(tasks)
        ends = [response.done for response in live if not response.ended]
        if ends:
            # Each is told when its store has taken the end, or has failed to, which takes seconds at most.
            await asyncio.wait(ends)
