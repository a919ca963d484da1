"""Fixtures for the tests of every member: real servers, from this system or Debian's packages (scripts/servers.py).

Each server is started by the first test that wants it, shared by the run, and ended with it; a test takes a database of
its own from it. Where a server cannot be had, the test is skipped with the reason.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from scripts.servers import POSTGRES, REDIS, Programs, Server, find, why_not
from tests.servers.postgres import Postgres
from tests.servers.postgres import running as running_postgres
from tests.servers.redis import Redis
from tests.servers.redis import running as running_redis

# How long an example takes says more of the machine than of the code: no test is judged by time.
settings.register_profile("house", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


def _programs(server: Server) -> Programs:
    found = find(server)
    if found is None:
        pytest.skip(f"{why_not(server)}")
    return found


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis server that tests share: it goes on running. `new_database()` gives a test its own."""
    with running_redis(_programs(REDIS)) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The URL of an empty Redis database."""
    return redis_server.new_database()


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """A Redis server of the test's own, which it may kill and start again."""
    with running_redis(_programs(REDIS)) as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres server that tests share; who stops it starts it again. `new_database()` gives a test its own."""
    with running_postgres(_programs(POSTGRES)) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty Postgres database, which is dropped with the test."""
    url = postgres.new_database()
    yield url
    if not postgres.stopped:
        postgres.drop(url)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Switches the garbage collector off, so that only what nobody refers to is gone."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
