"""Appends in groups, against a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as BrokenError

from sluice_gateway.responses.redis_appends import Appends
from sluice_gateway.responses.store import StoreUnavailableError

# Adds to a list, and refuses what is negative.
SCRIPT = """
if tonumber(ARGV[1]) < 0 then return redis.error_reply('ERR negative') end
redis.call('RPUSH', KEYS[1], ARGV[1])
return tonumber(ARGV[1]) % 2
"""


class Counted:
    """Takes turns, and knows how many there were. `gate` holds them back, `broken` breaks them."""

    def __init__(self) -> None:
        self.turns = 0
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken: Exception | None = None

    async def turn(self, command: Coroutine[Any, Any, list[Any]]) -> list[Any]:
        self.turns += 1
        self.asked.set()
        try:
            await self.gate.wait()
            if self.broken is not None:
                raise self.broken
            return await command
        finally:
            command.close()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    async with redis.asyncio.Redis.from_url(redis_url) as found:
        yield found


async def test_what_comes_meanwhile_is_the_next_group(client: Any) -> None:
    counted = Counted()
    appends = Appends(client, SCRIPT, counted.turn)
    counted.gate.clear()
    first = asyncio.ensure_future(appends.run(["list"], [1]))
    await counted.asked.wait()
    others = [asyncio.ensure_future(appends.run(["list"], [number])) for number in range(2, 302)]
    await asyncio.sleep(0)
    counted.gate.set()
    assert await first is True
    assert await asyncio.gather(*others) == [bool(number % 2) for number in range(2, 302)]
    assert counted.turns == 3  # no more than 256 at a time
    assert [int(one) for one in await client.lrange("list", 0, -1)] == list(range(1, 302))
    await appends.close()


async def test_one_that_fails_fails_alone(client: Any) -> None:
    appends = Appends(client, SCRIPT, Counted().turn)
    results = await asyncio.gather(*(appends.run(["list"], [n]) for n in (1, -1, 2)), return_exceptions=True)
    assert results[0] is True
    assert isinstance(results[1], StoreUnavailableError)
    assert results[2] is False


async def test_a_server_that_forgot_the_script_is_told_it_again(client: Any) -> None:
    appends = Appends(client, SCRIPT, Counted().turn)
    assert await appends.run(["list"], [1])
    await client.script_flush()
    assert await appends.run(["list"], [3])
    assert await client.llen("list") == 2


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), BrokenError("a defect: these are mapped before")])
async def test_a_group_that_breaks_fails_whole_and_the_next_one_does_not(client: Any, error: Exception) -> None:
    counted = Counted()
    appends = Appends(client, SCRIPT, counted.turn)
    counted.broken = error
    results = await asyncio.gather(*(appends.run(["list"], [n]) for n in (1, 3)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailableError] * 2
    counted.broken = None
    assert await appends.run(["list"], [5])


async def test_the_end_leaves_nobody_waiting(client: Any) -> None:
    counted = Counted()
    appends = Appends(client, SCRIPT, counted.turn)
    counted.gate.clear()
    waiting = [asyncio.ensure_future(appends.run(["list"], [n])) for n in range(300)]
    waiting[7].cancel()
    await counted.asked.wait()
    await appends.close()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results[7], asyncio.CancelledError)
    assert all(isinstance(result, StoreUnavailableError) for result in results[:7] + results[8:])
