"""The logs of responses in Redis Streams, so that any gateway can serve any response.

Of each response there are a stream of its batches, a hash of what else is known of it, and a lease, which the gateway
that makes it renews. A batch's id in the stream is the number of its first event and how many there are, so that a
position is found without an index. Everything that writes is a script that first looks at the lease: who was given up
for dead writes nothing any more. A gateway looks now and then for responses without a lease and ends them as lost.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar, cast

import redis.asyncio as redis
from google.rpc.status_pb2 import Status
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from sluice.auth.v1.identity_pb2 import Identity
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_gateway.config import GatewayConfig, RedisConfig
from sluice_gateway.responses.redis_appends import Appends
from sluice_gateway.responses.redis_scripts import APPEND, FREE, RENEW
from sluice_gateway.responses.response import Response, State
from sluice_gateway.responses.store import (
    REQUEST_ID_SECONDS,
    Ended,
    LeaseLostError,
    StoreUnavailableError,
    lost,
)
from sluice_kit.errors import from_status, make_error, to_status
from sluice_kit.ids import new_id

log = logging.getLogger(__name__)

T = TypeVar("T")
_TIMEOUT_SECONDS: Final = 2.0
_RETRIES: Final = 3
_CONNECTIONS: Final = 32
_MAX_FOLLOWED: Final = 8192
_KEEP_SECONDS: Final = 26 * 3600
"""How long what belongs to a response that runs is kept if no gateway is left: longer than one may run."""
_BLOCK_MS: Final = 500
_IDLE_SECONDS: Final = 5.0


class RedisStore:
    """Logs in one Redis. For the event loop's thread."""

    def __init__(self, config: GatewayConfig, settings: RedisConfig) -> None:
        self._config = config
        self._settings = settings
        self._id = new_id()
        url = settings.url.reveal()
        options: dict[str, Any] = {
            "socket_timeout": _TIMEOUT_SECONDS,
            "socket_connect_timeout": _TIMEOUT_SECONDS,
            "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), _RETRIES),
        }
        # Commands take turns on a few connections: the pool fails who finds all in use, and the one that waits costs more.
        self._redis: Any = redis.Redis.from_url(url, max_connections=_CONNECTIONS, **options)
        self._turns = asyncio.Semaphore(_CONNECTIONS)
        self._away, self._opening = False, 0  # whether the last command failed, and how many are being accepted
        # Who waits for what another gateway writes holds a connection all the while.
        self._waiting: Any = redis.Redis.from_url(url, max_connections=_MAX_FOLLOWED, **options)
        self._appends = Appends(self._redis, APPEND, self._ask)
        self._renew = self._redis.register_script(RENEW)
        self._compare_and_delete = self._redis.register_script(FREE)
        self._leases: dict[str, str] = {}
        self._mirrors: dict[str, Response] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_cancel: Callable[[str], None] = lambda _: None
        """Is told the id of a response of this gateway that another one was asked to cancel."""
        self.on_lost: Callable[[Response], None] = lambda _: None
        """Is told of a response of a gateway that died, as it ended or was ended."""
        self._left: deque[str] = deque()

    def start(self) -> None:
        """Begins to renew leases, to look for responses whose gateway died, and to listen for cancellations."""
        for work in (self._keep_leases, self._look_for_lost, self._listen):
            self._spawn(self._again_and_again(work))

    async def close(self) -> None:
        """Ends what `start` began. What still runs is found by the other gateways when its lease is over."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._appends.close()
        await self._redis.aclose()
        await self._waiting.aclose()

    async def ping(self) -> None:
        """Raises StoreUnavailableError if Redis does not answer."""
        await self._ask(self._redis.ping())

    def mirrors(self) -> list[Response]:
        """Returns the responses of other gateways that are watched here."""
        return list(self._mirrors.values())

    def look_at(self, response_ids: Iterable[str]) -> None:
        """Tells `on_lost` of those among these responses that have ended, soon. The others are found when they are lost."""
        self._left.extend(response_ids)

    # What LogStore promises.

    async def open(self, response: Response, key: tuple[str, str, str] | None) -> str | None:
        # One that hangs refuses nothing for seconds: while it is away, one new response at a time finds out if it still is.
        if self._away and self._opening:
            raise StoreUnavailableError("away")
        self._opening += 1
        try:
            return await self._open(response, key)
        finally:
            self._opening -= 1

    async def _open(self, response: Response, key: tuple[str, str, str] | None) -> str | None:
        if key is not None:
            name = self._key("request", *key)
            value = f"{response.fingerprint.hex()} {response.id}"
            taken = await self._ask(self._redis.set(name, value, nx=True, get=True, ex=REQUEST_ID_SECONDS))
            if taken is not None:
                fingerprint, _, other = taken.decode().partition(" ")
                if fingerprint != response.fingerprint.hex():
                    raise make_error(
                        ErrorReason.ERROR_REASON_REQUEST_ID_REUSED, "this request_id was used for another request"
                    )
                if other != response.id:
                    return str(other)
        token = f"{self._id} {new_id()}"
        about = {
            "tenant": response.tenant,
            "accept_ns": response.accept_time_ns,
            "row_key": response.row_key,
            "last": 0,
            "size": 0,
        }
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(self._of("lease", response.id), token, px=self._lease_ms)
            pipe.hset(self._of("about", response.id), mapping=about)
            pipe.expire(self._of("about", response.id), _KEEP_SECONDS)
            pipe.sadd(self._key("running"), response.id)
            await self._ask(pipe.execute())
        self._leases[response.id] = token
        return None

    async def append(self, response_id: str, first: int, count: int, body: bytes, ended: Ended | None) -> None:
        token = self._leases.get(response_id)
        if token is None:
            raise LeaseLostError
        if not await self._append_as(token, response_id, first, count, body, ended):
            raise LeaseLostError

    def release(self, response_id: str) -> None:
        self._leases.pop(response_id, None)

    def free(self, response: Response) -> None:
        """Gives the request id back of a response that was never accepted."""
        if response.key is not None:
            self._spawn(self._free(self._key("request", *response.key), f"{response.fingerprint.hex()} {response.id}"))

    async def _free(self, name: str, value: str) -> None:
        try:
            await self._ask(self._compare_and_delete(keys=[name], args=[value]))
        except StoreUnavailableError:
            log.warning("a request id could not be given back; it is forgotten after a day")

    def forget(self, response_id: str) -> None:
        """Deletes what is kept of an ended response before its time. One that still runs is cancelled instead."""
        self._spawn(self._forget(response_id))

    async def _forget(self, response_id: str) -> None:
        try:
            if await self._ask(self._redis.exists(self._of("lease", response_id))):
                await self.cancel(response_id)
            else:
                await self._ask(self._redis.unlink(self._of("about", response_id), self._of("events", response_id)))
        except StoreUnavailableError:
            log.warning("a response could not be forgotten; it is when its time is over")

    async def find(self, response_id: str, tenant: str) -> Response | None:
        mirror = self._mirrors.get(response_id)
        if mirror is not None:
            return mirror if mirror.tenant == tenant else None
        about, entries = await self._read(response_id)
        if not about or about[b"tenant"].decode() != tenant:
            return None
        mirror = self._mirrors.setdefault(response_id, self._mirror(response_id, about, entries))
        if not mirror.ended:
            self._spawn(self._follow(mirror))
        else:
            del self._mirrors[response_id]  # it will not change, so it is read anew each time
        return mirror

    async def cancel(self, response_id: str) -> None:
        lease = await self._ask(self._redis.get(self._of("lease", response_id)))
        if lease is not None:
            await self._ask(self._redis.publish(self._key("cancel", lease.decode().partition(" ")[0]), response_id))

    # Reading what others write.

    async def _read(self, response_id: str) -> tuple[dict[bytes, bytes], list[Any]]:
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(self._of("about", response_id))
            pipe.xrange(self._of("events", response_id))
            about, entries = await self._ask(pipe.execute())
        return about, entries

    def _mirror(self, response_id: str, about: dict[bytes, bytes], entries: list[Any]) -> Response:
        mirror = Response(
            response_id,
            Identity(tenant=about[b"tenant"].decode()),
            row_key=int(about[b"row_key"]),
            log_bytes=self._config.log.response_bytes,
            queue_bytes=self._config.watchers.queue_bytes,
            background=True,
            on_growth=lambda _: None,
            on_end=lambda _: None,
        )
        mirror.remote = True
        mirror.accept_time_ns = int(about[b"accept_ns"])
        batches = [entry for entry in entries if b"b" in entry[1]]
        mirror.log.last_sequence = _numbers(batches[0][0])[0] - 1 if batches else int(about[b"last"])
        for entry in batches:
            _take(mirror, entry)
        if b"state" in about:
            _end(mirror, about)
        return mirror

    async def _follow(self, mirror: Response) -> None:
        """Brings what the owner writes to the watchers here, until the end, or until nobody watches any more."""
        stream, idle_since = self._of("events", mirror.id), time.monotonic()
        try:
            while not mirror.ended:
                if mirror.watchers:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > _IDLE_SECONDS:
                    return
                last = mirror.log.last_sequence
                start = f"{last}-{_ANY}"
                found = await _unless_away(self._waiting.xread({stream: start}, block=_BLOCK_MS))
                entries = found[0][1] if found else []
                for entry in entries:
                    if b"b" in entry[1]:
                        _take(mirror, entry)
                if not entries or b"e" in entries[-1][1]:
                    about = await self._ask(self._redis.hgetall(self._of("about", mirror.id)))
                    if not about:
                        mirror.finish(State.FAILED, lost(mirror.name))
                    elif b"state" in about and int(about[b"last"]) == mirror.log.last_sequence:
                        _end(mirror, about)
        except StoreUnavailableError:
            # Only this reader ends; the response may go on, and can be resumed.
            failure = make_error(
                ErrorReason.ERROR_REASON_WATCHER_STALLED,
                "the response log cannot be read now; resume the response to read on",
                metadata={"resource": mirror.name, "last_sequence": str(mirror.log.last_sequence)},
            )
            mirror.finish(State.FAILED, failure)
        finally:
            self._mirrors.pop(mirror.id, None)

    # Leases.

    async def _keep_leases(self) -> None:
        for response_id, token in list(self._leases.items()):
            kept = await self._ask(self._renew(keys=[self._of("lease", response_id)], args=[token, self._lease_ms]))
            if not kept and self._leases.get(response_id) == token:
                # The next append learns of it, too; one that is silent has none.
                log.warning("the lease of a response is lost", extra={"response": response_id})
        await asyncio.sleep(self._settings.lease_seconds / 4)

    async def _look_for_lost(self) -> None:
        while self._left:
            about, entries = await self._read(self._left[0])
            response_id = self._left.popleft()
            if b"state" in about:
                self.on_lost(self._mirror(response_id, about, entries))
        for member in await self._ask(self._redis.smembers(self._key("running"))):
            response_id = member.decode()
            if response_id not in self._leases:
                await self._take_over(response_id)
        await asyncio.sleep(self._settings.lease_seconds / 2)

    async def _take_over(self, response_id: str) -> None:
        token = f"{self._id} {new_id()}"
        if not await self._ask(self._redis.set(self._of("lease", response_id), token, nx=True, px=self._lease_ms)):
            return  # it is alive
        about, entries = await self._read(response_id)
        if not about or b"state" in about:
            # It ended between the two questions, or nothing of it is left.
            await self._ask(self._redis.delete(self._of("lease", response_id)))
            await self._ask(self._redis.srem(self._key("running"), response_id))
            return
        mirror = self._mirror(response_id, about, entries)
        ended = Ended(State.FAILED, lost(mirror.name))
        ended.answer = mirror.answer().SerializeToString()
        if await self._append_as(token, response_id, mirror.log.last_sequence + 1, 0, b"", ended):
            log.warning("ended a response whose gateway died or lost this log", extra={"response": mirror.name})
            mirror.finish(State.FAILED, lost(mirror.name))
            self.on_lost(mirror)

    async def _append_as(
        self, token: str, response_id: str, first: int, count: int, body: bytes, ended: Ended | None
    ) -> bool:
        limits = self._config.log
        error = b"" if ended is None or ended.error is None else to_status(ended.error).SerializeToString()
        keys = [self._of(kind, response_id) for kind in ("lease", "events", "about")]
        args = [token, first, count, body, limits.response_bytes]
        args += ["" if ended is None else ended.state.value, error, b"" if ended is None else ended.answer]
        kept = int(limits.retention_seconds * 1000)
        args += [kept, max(kept, int(limits.answer_seconds * 1000)), response_id]
        return await self._appends.run([*keys, self._key("running")], args)

    async def _listen(self) -> None:
        async with self._waiting.pubsub() as channel:
            await channel.subscribe(self._key("cancel", self._id))
            while True:
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=_TIMEOUT_SECONDS / 2)
                if message is not None:
                    self.on_cancel(message["data"].decode())

    # Small things.

    @property
    def _lease_ms(self) -> int:
        return int(self._settings.lease_seconds * 1000)

    def _key(self, *parts: str) -> str:
        return ":".join((self._settings.prefix, *parts))

    def _of(self, kind: str, response_id: str) -> str:
        return self._key("response", response_id, kind)

    async def _ask(self, command: Coroutine[Any, Any, T]) -> T:
        try:
            async with self._turns:
                answer = await _unless_away(command)
        except StoreUnavailableError:
            self._away = True
            raise
        finally:
            command.close()  # one that was cancelled before its turn never ran
        self._away = False
        return answer

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> None:
        down = False
        while True:
            try:
                await work()
                down = False
            except (StoreUnavailableError, RedisError, OSError) as error:
                if not down:
                    log.warning("the response log cannot be reached", extra={"error": type(error).__name__})
                down = True
                await asyncio.sleep(self._settings.lease_seconds / 8)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _unless_away(command: Awaitable[T]) -> T:
    try:
        return await command
    except (RedisError, OSError) as error:
        raise StoreUnavailableError(type(error).__name__) from None


_ANY: Final = (1 << 64) - 1
"""Above every count: after `last-ANY` comes what begins with a greater number."""


def _numbers(entry_id: bytes) -> tuple[int, int]:
    first, _, count = entry_id.partition(b"-")
    return int(first), int(count)


def _take(mirror: Response, entry: Any) -> None:
    first, count = _numbers(entry[0])
    expected = mirror.log.last_sequence + 1
    if first > expected:
        raise StoreUnavailableError("what comes next is no longer kept")
    if first == expected:
        mirror.take(count, cast("bytes", entry[1][b"b"]))


def _end(mirror: Response, about: dict[bytes, bytes]) -> None:
    error = from_status(Status.FromString(about[b"error"])) if about[b"error"] else None
    mirror.keep_answer(about[b"answer"])
    mirror.finish(State(about[b"state"].decode()), error)
