"""Appends of many responses to their logs in Redis: what comes while one group is under way is the next group.

A command by itself costs the gateway a turn of its loop and Redis a system call for each way; in a group they share
those. Who is alone waits for nobody: a group leaves in the turn of the loop in which its first one came.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NamedTuple

from redis.exceptions import NoScriptError, RedisError

from sluice_gateway.responses.store import StoreUnavailableError

log = logging.getLogger(__name__)

_MOST: Final = 256
"""Of one group, so that the first of it does not wait long for the last."""


class _Append(NamedTuple):
    keys: list[str]
    args: list[Any]
    done: "asyncio.Future[bool]"


class Appends:
    """Runs one script for many callers. For the event loop's thread."""

    def __init__(
        self, client: Any, script: str, turn: Callable[[Coroutine[Any, Any, list[Any]]], Awaitable[list[Any]]]
    ) -> None:
        """`turn` awaits a command of the client when it is its turn, and raises StoreUnavailableError for its failures."""
        self._client = client
        self._script = script
        self._turn = turn
        self._sha = ""
        self._next: list[_Append] = []
        self._task: asyncio.Task[None] | None = None

    async def run(self, keys: list[str], args: list[Any]) -> bool:
        """Runs the script and returns whether it did what it is for. Raises StoreUnavailableError."""
        loop = asyncio.get_running_loop()
        append = _Append(keys, args, loop.create_future())
        self._next.append(append)
        if self._task is None:
            self._task = loop.create_task(self._work())
        return await append.done

    async def close(self) -> None:
        """Gives up what is under way; who waits for it is told so."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _work(self) -> None:
        group: list[_Append] = []
        try:
            while self._next:
                group, self._next = self._next[:_MOST], self._next[_MOST:]
                try:
                    await self._send(group)
                except StoreUnavailableError as error:
                    _fail(group, error)
                except Exception as error:
                    log.exception("a group of appends failed unexpectedly")  # and nobody may wait for ever
                    _fail(group, StoreUnavailableError(type(error).__name__))
        except asyncio.CancelledError:
            _fail(group + self._next, StoreUnavailableError("the gateway stops"))
            raise
        finally:
            self._task = None

    async def _send(self, group: list[_Append]) -> None:
        answers = await self._turn(self._pipe(group))
        missing: list[_Append] = []
        for append, answer in zip(group, answers, strict=True):
            if isinstance(answer, NoScriptError):
                missing.append(append)
            elif isinstance(answer, RedisError):
                _fail([append], StoreUnavailableError(type(answer).__name__))
            elif not append.done.done():
                append.done.set_result(bool(answer))
        if missing:
            # The server is another one, or was restarted. A script that is run twice has done its work once.
            self._sha = ""
            await self._send(missing)

    async def _pipe(self, group: list[_Append]) -> list[Any]:
        if not self._sha:
            self._sha = await self._client.script_load(self._script)
        async with self._client.pipeline(transaction=False) as pipe:
            for append in group:
                pipe.evalsha(self._sha, len(append.keys), *append.keys, *append.args)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            return answers


def _fail(appends: list[_Append], error: StoreUnavailableError) -> None:
    for append in appends:
        if not append.done.done():
            append.done.set_exception(error)
