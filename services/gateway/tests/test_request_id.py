"""Idempotency: one request id starts one response, also across a crash."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.records.ledger import Ledger

R = ErrorReason


@pytest.fixture
def start(start_recorded: Any) -> Any:
    """Every test below is for both kinds of database."""
    return start_recorded


@pytest.fixture
async def client(start: Any) -> AsyncIterator[Any]:
    async with start() as running:
        yield running


def new_id() -> str:
    return str(uuid.uuid4())


async def test_a_repeat_attaches(client: Any, ask: Any) -> None:
    request_id = new_id()
    spec = ask("scripted/text?tokens=20&delay_ms=5", labels={"a": "1", "b": "2"})
    turned = ask("scripted/text?tokens=20&delay_ms=5", labels={"b": "2", "a": "1"})
    first, second = await asyncio.gather(client.stream(spec, request_id), client.stream(turned, request_id.upper()))
    third = await client.stream(spec, request_id)
    assert first.events == second.events == third.events
    assert len(await client.rows("responses")) == 1
    assert len(await client.rows("attempts")) == 1


async def test_the_same_id_for_another_request_is_refused(client: Any, ask: Any) -> None:
    request_id = new_id()
    assert (await client.stream(ask(), request_id)).error is None
    other = await client.stream(ask(text="something else"), request_id)
    assert other.error is not None
    assert other.error.reason == R.ERROR_REASON_REQUEST_ID_REUSED


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field as it stands on the wire."""
    size, length = len(payload), b""
    while size >= 0x80:
        length += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return _tag(number) + length + bytes((size,)) + payload


def _tag(number: int) -> bytes:
    key = number << 3 | 2
    return bytes((key,)) if key < 0x80 else bytes((key & 0x7F | 0x80, key >> 7))


def _shuffled(spec: pb.ChatSpec, entries: Iterable[str]) -> bytes:
    """The spec as Go writes it: a map's entries in a random order, so between two tries in another one."""
    bare = pb.ChatSpec.FromString(spec.SerializeToString())
    options = bare.parameters.vendor_options
    pairs = [(key, options.fields[key].SerializeToString()) for key in entries]
    bare.ClearField("labels")
    bare.ClearField("parameters")
    labels = b"".join(_field(15, _field(1, key.encode()) + _field(2, spec.labels[key].encode())) for key in entries)
    struct = b"".join(_field(1, _field(1, key.encode()) + _field(2, value)) for key, value in pairs)
    number = pb.ChatSpec.DESCRIPTOR.fields_by_name["parameters"].number
    inner = spec.parameters.DESCRIPTOR.fields_by_name["vendor_options"].number
    return labels + _field(number, _field(inner, struct)) + bare.SerializeToString()


async def test_entries_of_maps_in_another_order_are_the_same_request(start: Any, ask: Any, tmp_path: Path) -> None:
    """On the wire, nested maps included, also after a restart; while another value is another request."""
    request_id, keys = new_id(), [f"key-{number}" for number in range(9)]
    spec = ask("scripted/text?tokens=4", labels={key: f"of {key}" for key in keys})
    spec.parameters.vendor_options.update({key: number for number, key in enumerate(keys)})
    other = pb.ChatSpec.FromString(spec.SerializeToString())
    other.labels[keys[3]] = "another"

    async def send(client: Any, what: pb.ChatSpec, order: list[str]) -> Any:
        body = _field(1, request_id.encode()) + _field(2, _shuffled(what, order))
        assert pb.StreamChatRequest.FromString(body) == pb.StreamChatRequest(spec=what, request_id=request_id)
        method = client.channel.unary_stream(
            "/sluice.gateway.v1.ChatService/StreamChat", None, pb.StreamChatResponse.FromString
        )
        return await client.collect(method(body))

    orders = [keys, keys[::-1], keys[4:] + keys[:4], sorted(keys, key=lambda key: key[::-1] + "x")]
    async with start(state_dir=str(tmp_path)) as client:
        seen = [await send(client, spec, order) for order in orders]
        refused = await send(client, other, keys)
        rows = await client.rows("responses")
    assert all(one.events == seen[0].events for one in seen)
    assert seen[0].events
    assert len(rows) == 1
    assert refused.error.reason == R.ERROR_REASON_REQUEST_ID_REUSED
    async with start(state_dir=str(tmp_path)) as client:
        lost, refused = await send(client, spec, keys[::-1]), await send(client, other, keys)
    assert lost.error.reason == R.ERROR_REASON_RESPONSE_LOST
    assert refused.error.reason == R.ERROR_REASON_REQUEST_ID_REUSED


async def test_methods_have_ids_of_their_own(client: Any, ask: Any) -> None:
    request_id = new_id()
    seen = await client.stream(ask(), request_id)
    answer = (await client.chat.Chat(pb.ChatRequest(spec=ask(), request_id=request_id))).answer
    again = (await client.chat.Chat(pb.ChatRequest(spec=ask(), request_id=request_id))).answer
    assert answer == again
    assert answer.response != seen.response


async def test_an_id_outlives_the_process(start: Any, ask: Any, tmp_path: Path) -> None:
    request_id = new_id()
    async with start(state_dir=str(tmp_path)) as client:
        assert (await client.stream(ask(), request_id)).error is None
    async with start(state_dir=str(tmp_path)) as client:
        again = await client.stream(ask(), request_id)
        other = await client.stream(ask(text="other"), request_id)
        fresh = await client.stream(ask(), new_id())
    assert again.error is not None
    assert again.error.reason == R.ERROR_REASON_RESPONSE_LOST
    assert other.error is not None
    assert other.error.reason == R.ERROR_REASON_REQUEST_ID_REUSED
    assert fresh.error is None


@pytest.mark.parametrize("records", ["sqlite"], indirect=True)  # of a server's: test_shared_records.py
async def test_what_a_crash_left_open_is_ended(start: Any, ask: Any, tmp_path: Path) -> None:
    """The ledger as it stands in the middle of a response is what a kill -9 leaves behind."""
    request_id = new_id()
    async with start() as client:
        call = client.chat.StreamChat(
            pb.StreamChatRequest(spec=ask("scripted/text?tokens=1000&delay_ms=20"), request_id=request_id)
        )
        await client.collect(call, until=lambda seen: "text_delta" in seen.kinds)
        [response], [attempt] = await client.rows("responses"), await client.rows("attempts")
        assert (response["state"], attempt["outcome"]) == ("running", "running")
        source = client.mesh.document.state_dir() / "gateway"
        target = tmp_path / "gateway"
        target.mkdir()
        for file in source.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        call.cancel()
    async with start(state_dir=str(tmp_path)) as client:
        [response], [attempt] = await client.rows("responses"), await client.rows("attempts")
        assert (response["state"], response["reason"]) == ("failed", "RESPONSE_LOST")
        assert (attempt["outcome"], attempt["usage_source"]) == ("failed", "estimated")
        resumed = await client.resume(f"responses/{response['id']}", 2)
        assert resumed.error is not None
        assert resumed.error.reason == R.ERROR_REASON_RESPONSE_LOST
        again = await client.stream(ask("scripted/text?tokens=1000&delay_ms=20"), request_id)
        assert again.error is not None
        assert again.error.reason == R.ERROR_REASON_RESPONSE_LOST


async def test_an_id_that_could_not_be_recorded_is_free_again(start: Any, ask: Any) -> None:
    """A full disk fails the request before anything is spent, and loses nothing."""
    request_id = new_id()
    async with start() as client:
        ledger: Ledger = client.gateway._ledger
        await ledger._writer.ask(lambda connection: connection.exec_driver_sql("ALTER TABLE responses RENAME TO away"))
        refused = await client.stream(ask(), request_id)
        unnamed = await client.stream(ask())
        await ledger._writer.ask(lambda connection: connection.exec_driver_sql("ALTER TABLE away RENAME TO responses"))
        taken = await client.stream(ask(), request_id)
        attempts = await client.rows("attempts")
    for seen in (refused, unnamed):
        assert seen.events == []
        assert seen.error is not None
        assert seen.error.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    assert taken.error is None
    assert len(attempts) == 1


async def test_what_nobody_waits_for_is_written_again(start: Any, ask: Any) -> None:
    async with start() as client:
        ledger: Ledger = client.gateway._ledger
        seen = await client.stream(ask())
        [before] = await client.rows("attempts")
        record = AttemptRecord(1, seen.events[0][1].accepted.targets[0])
        record.id, record.key = before["id"], before["key"]
        record.usage.output_tokens = 777
        await ledger._writer.ask(lambda connection: connection.exec_driver_sql("ALTER TABLE attempts RENAME TO away"))
        ledger.attempt_ended(record)
        await ledger._writer.ask(lambda connection: connection.exec_driver_sql("ALTER TABLE away RENAME TO attempts"))
        assert (await client.stream(ask())).error is None
        rows = {row["id"]: row for row in await client.rows("attempts")}
    assert rows[record.id]["output_tokens"] == 777


async def test_who_leaves_at_once_leaves_nothing_open(client: Any, ask: Any, until: Any) -> None:
    """At whatever moment the client goes, every row that was begun is ended."""
    for number in range(40):
        request_id = new_id() if number % 2 else ""
        call = client.chat.StreamChat(
            pb.StreamChatRequest(spec=ask("scripted/text?tokens=3&delay_ms=2"), request_id=request_id)
        )
        await asyncio.sleep(number / 10_000)  # not to wait for something: to leave at another moment each time
        call.cancel()
    await until(lambda: client.gateway.responses.running == 0)
    await until(lambda: client.mesh.servers["gateway"].dispatcher.in_flight == 0)
    assert {row["state"] for row in await client.rows("responses")} <= {"cancelled", "completed"}
    attempts = await client.rows("attempts")
    assert {row["outcome"] for row in attempts} <= {"cancelled", "completed"}
    # Also those that never began say where their numbers come from.
    assert {row["usage_source"] for row in attempts} <= {"provider", "estimated", "partial"}
    assert (await client.stream(ask())).error is None


async def test_requests_that_come_together_are_recorded_together(client: Any, ask: Any) -> None:
    ids = [new_id() for _ in range(12)]
    seen = await asyncio.gather(*(client.stream(ask(), request_id) for request_id in ids for _ in range(2)))
    assert all(one.error is None for one in seen)
    rows = await client.rows("responses")
    assert sorted(row["request_id"] for row in rows) == sorted(ids)
    assert len(await client.rows("attempts")) == len(ids)
