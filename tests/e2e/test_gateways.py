"""Two gateways in processes of their own on one Postgres and one Redis, and what becomes of the work of one that dies."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import yaml

from sluice.chat.v1.event_pb2 import Event
from sluice.chat.v1.message_pb2 import Message, MessageRole, Part
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.gateway.v1 import chat_service_pb2_grpc as pb_grpc
from sluice.gateway.v1 import usage_service_pb2 as usage_pb
from sluice.gateway.v1 import usage_service_pb2_grpc as usage_grpc
from sluice_kit.channels import open_channel
from sluice_kit.errors import SluiceError, from_rpc_error

from .processes import SECONDS, environment

LOST = ErrorReason.ERROR_REASON_RESPONSE_LOST
QUICK, SLOW = "text?tokens=5", "text?tokens=4000&delay_ms=10"


class Process:
    """A gateway with an adapter inside, on a Unix socket."""

    def __init__(self, folder: Path, name: str, gateway: dict[str, Any]) -> None:
        self._folder = folder / name
        self._folder.mkdir(exist_ok=True)
        self.address = f"unix:{self._folder}/s"
        section = {"listen": self.address, "integrations": {"scripted": {"colocate": True}}, **gateway}
        document = {
            "state_dir": str(self._folder / "state"),
            "providers": {"scripted": {"adapter": "scripted"}},
            "gateway": {
                "prices": {f"scripted/{model}": {"input": 3, "output": 15} for model in (QUICK, SLOW)},
                **section,
            },
        }
        (self._folder / "sluice.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Starts it and waits until it takes calls."""
        with (self._folder / "said").open("a") as said:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - starting takes no time; being ready is awaited
                [sys.executable, "-m", "sluice_gateway", "--config", "sluice.yaml", "--until-stdin-closes"],
                cwd=self._folder,
                env=environment(self._folder / "home"),
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
            )
        async with asyncio.timeout(SECONDS), open_channel(self.address) as channel:
            await channel.channel_ready()

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends it, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(SECONDS)
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None


@contextlib.asynccontextmanager
async def running(*processes: Process) -> AsyncIterator[list[Any]]:
    """Runs gateways, and yields the stub of each."""
    async with contextlib.AsyncExitStack() as stack:
        for process in processes:
            stack.callback(process.end)
        await asyncio.gather(*(process.start() for process in processes))
        channels = [await stack.enter_async_context(open_channel(process.address)) for process in processes]
        yield [stub(channel) for channel in channels]


def stub(channel: grpc.aio.Channel) -> Any:
    return pb_grpc.ChatServiceStub(channel)


def usage(channel: grpc.aio.Channel) -> Any:
    return usage_grpc.UsageServiceStub(channel)


def request(model: str, request_id: str) -> pb.StreamChatRequest:
    message = Message(role=MessageRole.MESSAGE_ROLE_USER, parts=[Part(text="hello")])
    spec = pb.ChatSpec(model=model, messages=[message])
    spec.detach_grace.FromSeconds(60)
    return pb.StreamChatRequest(spec=spec, request_id=request_id)


async def read(call: Any, events: int | None = None) -> tuple[list[Event], SluiceError | None]:
    """Reads a call to its end, or so many events of it."""
    seen: list[Event] = []
    try:
        async for batch in call:
            seen.extend(batch.events)
            if events is not None and len(seen) >= events:
                break
    except grpc.aio.AioRpcError as error:
        return seen, from_rpc_error(error)
    return seen, None


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


ATTEMPTS = """
SELECT outcome, usage_source, input_tokens > 0 AND cost_nano_usd = input_tokens * 3000 + output_tokens * 15000, count(*)
FROM attempts GROUP BY 1, 2, 3 ORDER BY 1
"""
SILENT = "SELECT id FROM attempts WHERE output_tokens = 0"
STATES = "SELECT state, reason, count(*) FROM responses GROUP BY 1, 2 ORDER BY 1"


@pytest.mark.slow
async def test_a_survivor_ends_what_a_killed_gateway_left(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, redis_url: str
) -> None:
    folder = tmp_path_factory.mktemp("g")
    settings = {
        "replicas": 2,
        "log": {"redis": {"url": redis_url, "lease_seconds": 1}},
        "records": {"url": postgres_url, "lease_seconds": 600},
    }
    dies, survives = Process(folder, "a", settings), Process(folder, "b", settings)
    async with running(dies, survives) as (one, two):
        done_id, ids = str(uuid.uuid4()), [str(uuid.uuid4()) for _ in range(4)]
        done, _ = await read(one.StreamChat(request(f"scripted/{QUICK}", done_id)))
        calls = [one.StreamChat(request(f"scripted/{SLOW}", request_id)) for request_id in ids]
        begun = [(await read(call, 20))[0] for call in calls]
        dies.end(signal.SIGKILL)
        # Whoever read there reads on here, and so does who asks again with the same id.
        for request_id, before in zip(ids, begun, strict=True):
            name = before[0].accepted.response
            resumed, error = await read(two.ResumeChat(pb.ResumeChatRequest(response=name)))
            assert error is not None
            assert error.reason == LOST
            assert resumed[: len(before)] == before
            again, same = await read(two.StreamChat(request(f"scripted/{SLOW}", request_id)))
            assert (again, same and same.reason) == (resumed, LOST)
        assert (await read(two.StreamChat(request(f"scripted/{QUICK}", done_id))))[0] == done
        await until_settled(postgres_url)
        await dies.start()  # it ends nothing a second time, and takes nothing over
        async with open_channel(dies.address) as channel:  # the one from before waits a while for it
            _, error = await read(stub(channel).StreamChat(request(f"scripted/{SLOW}", ids[0])))
            assert error is not None
            assert error.reason == LOST
            totals = (await usage(channel).QueryUsage(usage_pb.QueryUsageRequest())).totals
        assert totals.attempts == 5
        settled = rows(postgres_url, ATTEMPTS)
        assert settled == [("completed", "provider", True, 1), ("failed", "estimated", True, 4)]
        assert rows(postgres_url, SILENT) == []
        costs = rows(postgres_url, "SELECT sum(cost_nano_usd) FROM attempts")
        assert costs == [(totals.cost_nano_usd,)]
        assert rows(postgres_url, STATES) == [("completed", "", 1), ("failed", "RESPONSE_LOST", 4)]


@pytest.mark.slow
async def test_a_gateway_that_comes_back_ends_what_it_left_at_once(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str
) -> None:
    """Its lease is far from over, and without a log that others read nobody else has what it made."""
    process = Process(tmp_path_factory.mktemp("g"), "a", {"records": {"url": postgres_url, "lease_seconds": 600}})
    async with running(process) as (gateway,):
        request_id = str(uuid.uuid4())
        await read(gateway.StreamChat(request(f"scripted/{SLOW}", request_id)), 5)
        process.end(signal.SIGKILL)
        assert rows(postgres_url, STATES) == [("running", "", 1)]
        await process.start()
        assert rows(postgres_url, STATES) == [("failed", "RESPONSE_LOST", 1)]
        assert rows(postgres_url, ATTEMPTS) == [("failed", "estimated", True, 1)]
        async with open_channel(process.address) as channel:
            _, error = await read(stub(channel).StreamChat(request(f"scripted/{SLOW}", request_id)))
        assert error is not None
        assert error.reason == LOST
        assert len(rows(postgres_url, "SELECT id FROM instances")) == 1


async def until_settled(url: str) -> None:
    async with asyncio.timeout(SECONDS):
        while rows(url, "SELECT id FROM attempts WHERE outcome = 'running'"):  # noqa: ASYNC110  # another process writes
            await asyncio.sleep(0.02)
