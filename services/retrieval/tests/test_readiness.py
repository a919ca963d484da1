"""What the service says of itself while a server of its own is away."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from .qdrant_server import qdrant_server


async def test_it_needs_nothing_but_its_own_files(start: Callable[..., Any]) -> None:
    async with start() as client:
        assert client.service.needs == {}


async def test_it_needs_the_servers_it_was_given(start: Callable[..., Any], postgres: Any) -> None:
    async with qdrant_server() as (port, _):
        server = {"url": "http://127.0.0.1:1", "grpc_port": port, "replication_factor": 1}
        settings = {
            "records": {"url": postgres.new_database()},
            "store": {"kind": "qdrant", "qdrant": server},
        }
        async with start(settings) as client:
            needs = client.service.needs
            assert sorted(needs) == ["records", "vectors"]
            for check in needs.values():
                await check()
            postgres.stop()
            try:
                with pytest.raises(OperationalError):
                    await needs["records"]()
            finally:
                postgres.start()
            await needs["records"]()


async def test_vectors_that_do_not_answer(start: Callable[..., Any]) -> None:
    server = {"url": "http://127.0.0.1:1", "grpc_port": 1}
    async with start({"store": {"kind": "qdrant", "qdrant": server}}) as client:
        with pytest.raises(Exception, match="UNAVAILABLE"):
            await client.service.needs["vectors"]()
