"""Records in one Postgres: several gateways, each of which may die, and a server that may be away."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, update

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice_gateway.records import postgres as postgres_module
from sluice_gateway.records.instances import Home
from sluice_gateway.records.schema import SLOTS, Keys, attempts, metadata, responses
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError
from sluice_kit.testing import document_of, make_service, running

from .pausing import pausing
from .test_registration import Setting, everywhere

R = ErrorReason
SLOW = "scripted/text?tokens=10000&delay_ms=10"
GRACE = {"detach_grace": {"seconds": 30}}


def new_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
async def gateways(start: Any, postgres_url: str) -> AsyncIterator[Any]:
    """Returns the function that starts another gateway on the same records."""
    async with AsyncExitStack() as stack:

        async def another(lease_seconds: float = 30, state_dir: str | None = None, **settings: Any) -> Any:
            records = {"url": postgres_url, "lease_seconds": lease_seconds, "poll_seconds": 0.05}
            sections = {} if state_dir is None else {"state_dir": state_dir}
            return await stack.enter_async_context(start({"records": records, **settings}, **sections))

        yield another


async def speaking(client: Any, ask: Any, model: str = SLOW, request_id: str = "") -> Any:
    """Returns a call whose answer has begun."""
    call = client.chat.StreamChat(pb.StreamChatRequest(spec=ask(model, **GRACE), request_id=request_id))
    await client.collect(call, until=lambda seen: "text_delta" in seen.kinds)
    return call


async def states(client: Any) -> list[tuple[str, str, str]]:
    """Returns of each response how it stands, and how its attempt does and why its figures are known."""
    by_key = {row["response_key"]: row for row in await client.rows("attempts")}
    return sorted(
        (row["state"], by_key[row["key"]]["outcome"], by_key[row["key"]]["usage_source"])
        for row in await client.rows("responses")
    )


RUNNING, LOST = ("running", "running", ""), ("failed", "failed", "estimated")


async def test_gateways_that_start_together_make_the_tables_once_and_have_keys_of_their_own(
    gateways: Any, ask: Any
) -> None:
    clients = await asyncio.gather(*(gateways() for _ in range(3)))
    await asyncio.gather(*(client.stream(ask(), new_id()) for client in clients for _ in range(5)))
    rows = await clients[0].rows("responses")
    slots: dict[str, set[int]] = {}
    for row in rows:
        slots.setdefault(row["instance"], set()).add(row["key"] % SLOTS)
    assert len(rows) == 15
    assert sorted(slots.values(), key=min) == [{0}, {1}, {2}]


def test_keys_of_two_slots_never_meet_and_grow() -> None:
    one, two, alone = Keys(shared=True), Keys(shared=True), Keys(shared=False)
    two.slot = 7
    now = time.time_ns()
    mine = [one.next(now + step // 500 * 10**6) for step in range(3000)]
    theirs = [two.next(now + step // 500 * 10**6) for step in range(3000)]
    assert not set(mine) & set(theirs)
    assert (mine, theirs) == (sorted(set(mine)), sorted(set(theirs)))
    assert {key % SLOTS for key in theirs} == {7}
    first = alone.next(now)
    assert alone.next(now) == first + 1


async def test_a_request_id_is_taken_for_every_gateway(gateways: Any, ask: Any) -> None:
    """Without a log that they share, the answer is at one gateway alone; the others know that there is one."""
    one, two = await gateways(), await gateways()
    ids = [new_id() for _ in range(10)]
    seen = await asyncio.gather(*(client.stream(ask(), request_id) for request_id in ids for client in (one, two)))
    assert len(await one.rows("responses")) == len(await two.rows("attempts")) == len(ids)
    errors = [view.error for view in seen if view.error is not None]
    assert len(errors) == len(ids)
    assert {error.reason for error in errors} == {R.ERROR_REASON_RESPONSE_LOST}
    others = [await client.stream(ask(text="other"), ids[0]) for client in (one, two)]
    assert {view.error.reason for view in others} == {R.ERROR_REASON_REQUEST_ID_REUSED}


async def test_who_starts_ends_nothing_of_the_others(gateways: Any, ask: Any) -> None:
    one = await gateways()
    call = await speaking(one, ask)
    two = await gateways()
    assert await states(two) == [RUNNING]
    call.cancel()


async def test_survivors_end_what_a_silent_gateway_left_once(gateways: Any, ask: Any, until: Any) -> None:
    one = await gateways(lease_seconds=0.4)
    pause, request_id = pausing(one), new_id()
    call = await speaking(one, ask, "scripted/text?tokens=300", request_id)
    one.gateway._ledger._database._keeping.cancel()
    others = [await gateways(lease_seconds=0.4) for _ in range(2)]
    while await states(others[0]) != [LOST]:  # noqa: ASYNC110  # what is waited for happens in the server
        await asyncio.sleep(0.02)  # a lease ends by the database's clock
    again = await others[1].stream(ask("scripted/text?tokens=300", **GRACE), request_id)
    assert again.error.reason == R.ERROR_REASON_RESPONSE_LOST
    pause.go_on.set()
    # It was alive after all: what it knows of its answer is more than an estimate.
    assert (await one.collect(call)).error is None
    await one.gateway._ledger._writer.flush()
    assert await states(others[0]) == [("completed", "completed", "provider")]


async def test_a_gateway_that_was_given_up_comes_back(gateways: Any, ask: Any) -> None:
    one = await gateways()
    database = one.gateway._ledger._database
    await database.ask(database._place.leave)
    call = await speaking(one, ask)
    two = await gateways()
    await two.gateway._ledger._database.ask(two.gateway._ledger._database._place.look)
    assert await states(two) == [LOST]
    assert not await database.ask(database._place.renew)
    await database._join()
    assert await database.ask(database._place.renew)
    second = await speaking(one, ask)
    await two.gateway._ledger._database.ask(two.gateway._ledger._database._place.look)
    assert await states(two) == [LOST, RUNNING]
    call.cancel()
    second.cancel()


def test_a_state_folder_is_the_home_of_one_gateway_at_a_time(tmp_path: Path) -> None:
    first = Home(tmp_path)
    second = Home(tmp_path)
    assert first.id != second.id
    second.close()
    first.close()
    again = Home(tmp_path)
    assert again.id == first.id
    again.close()


async def test_what_is_registered_at_one_is_known_to_all(gateways: Any, ask: Any, until: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/extra.sock"
    document = document_of({"providers": {"extra": {"adapter": "scripted", "listen": address}}}, tmp_path)
    one, two = await gateways(**everywhere(tmp_path)), await gateways(**everywhere(tmp_path))
    async with running(make_service("providers", document, integration="extra"), document):
        await Setting(one).add("extra", address)
        await until(lambda: "extra" in two.gateway._integrations)
        assert (await two.stream(ask("extra/text?tokens=2"))).error is None
        await Setting(two).remove("extra")
        await until(lambda: "extra" not in one.gateway._integrations)
        await Setting(one).add("extra", f"unix:{tmp_path}/moved.sock")
        await until(lambda: "extra" in two.gateway._integrations)
        # The other gateway need not have looked yet.
        two.gateway._registration._polling.cancel()
        await Setting(one).remove("extra")
        await Setting(one).add("extra", address)
        added = await Setting(two).add("extra", address)
        assert added.registered
        assert (await two.stream(ask("extra/text?tokens=2"))).error is None


async def test_two_sweep_at_once(gateways: Any, ask: Any) -> None:
    retention = {"responses_seconds": 1, "attempts_seconds": 1, "batch": 4}
    clients = [await gateways(retention=retention) for _ in range(2)]
    for _ in range(9):
        await clients[0].stream(ask())
    await clients[0].rows("responses")
    shift = 3 * 86_400_000 << 20
    for table in (responses, attempts):
        older = update(table).values(key=table.c.key - shift)
        await clients[0].gateway._ledger._writer.ask(lambda connection, older=older: connection.execute(older))
    while any(await asyncio.gather(*(client.gateway._sweeper.sweep() for client in clients))):
        pass
    assert await clients[0].rows("responses") == await clients[1].rows("attempts") == []


async def test_tables_are_as_they_are_used_and_those_of_a_newer_program_refused(
    gateways: Any, start: Any, postgres_url: str
) -> None:
    await gateways()
    engine = create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        ours = {"include_name": lambda name, kind, _: kind != "table" or name in metadata.tables}  # not conversations'
        context = MigrationContext.configure(connection, opts={"version_table": "gateway_version", **ours})
        different = compare_metadata(context, metadata)
        connection.exec_driver_sql("UPDATE gateway_version SET version_num = '9999'")
    engine.dispose()
    assert different == []
    with pytest.raises(ConfigError, match="newer version"):
        async with start({"records": {"url": postgres_url}}):
            pass


# The server goes away, and comes back.


async def test_a_server_that_goes_away_and_comes_back_under_load(
    gateways: Any, ask: Any, until: Any, postgres: Any
) -> None:
    one, two = await gateways(lease_seconds=0.4), await gateways(lease_seconds=0.4)
    pauses = [pausing(client) for client in (one, two)]
    calls = [await speaking(client, ask, "scripted/text?tokens=400") for client in (one, two) for _ in range(3)]
    ended = [asyncio.create_task(one.collect(call)) for call in calls]
    postgres.stop()
    request_id = new_id()
    try:
        refused = [await one.stream(ask(), request_id) for _ in range(3)]
        unnamed = await two.stream(ask())
        assert {view.error.reason for view in (*refused, unnamed)} == {R.ERROR_REASON_STORE_UNAVAILABLE}
        assert all(view.error.retryable and not view.events for view in refused)
        with pytest.raises(SluiceError):
            await one.gateway.needs["records"]()
        # Running answers go on to their ends, and the ends wait.
        for pause in pauses:
            pause.go_on.set()
        assert [view.error for view in await asyncio.gather(*ended)] == [None] * len(calls)
        assert one.gateway._ledger.queued + two.gateway._ledger.queued >= 2 * len(calls)
        # Longer than a lease: whoever lives must be able to say so first.
        await asyncio.sleep(0.5)
    finally:
        postgres.start()
    while (back := await one.stream(ask(), request_id)).error is not None:
        assert back.error.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    await two.gateway._ledger._writer.flush()
    await until(lambda: one.gateway._ledger.queued + two.gateway._ledger.queued == 0)
    assert await states(one) == [("completed", "completed", "provider")] * (len(calls) + 1)


async def test_a_server_that_was_restarted_is_met_again_without_a_failure(
    gateways: Any, ask: Any, postgres: Any
) -> None:
    client = await gateways()
    assert (await client.stream(ask(), new_id())).error is None
    await client.gateway._ledger._writer.flush()
    postgres.stop()
    postgres.start()
    assert (await client.stream(ask(), new_id())).error is None
    assert await states(client) == [("completed", "completed", "provider")] * 2


async def test_a_gateway_may_start_before_the_server(start: Any, ask: Any, postgres: Any) -> None:
    url = postgres.new_database()
    postgres.stop()
    try:
        async with start({"records": {"url": url, "poll_seconds": 0.05}}) as client:
            assert (await client.stream(ask())).error.reason == R.ERROR_REASON_STORE_UNAVAILABLE
            postgres.start()
            while (await client.stream(ask())).error is not None:
                pass
            assert await states(client) == [("completed", "completed", "provider")]
    finally:
        if postgres.stopped:
            postgres.start()


@pytest.mark.parametrize("named", [True, False])
async def test_a_commit_whose_answer_was_lost_is_undone(
    gateways: Any, ask: Any, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """The server has committed and the connection breaks: who was refused finds nothing on record, and may try again."""
    client, request_id = await gateways(), new_id() if named else ""
    assert (await client.stream(ask())).error is None
    await client.gateway._ledger._writer.flush()
    commit = psycopg.AsyncConnection.commit

    async def lost(connection: Any) -> None:
        await commit(connection)
        monkeypatch.undo()
        await connection.close()
        raise psycopg.OperationalError

    monkeypatch.setattr(psycopg.AsyncConnection, "commit", lost)
    refused = await client.stream(ask(), request_id)
    assert refused.error.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    assert (await client.stream(ask(), request_id)).error is None
    assert await states(client) == [("completed", "completed", "provider")] * 2


async def test_a_server_that_does_not_answer_is_given_up_and_what_waits_is_bounded(
    gateways: Any, ask: Any, postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    client = await gateways()
    assert (await client.stream(ask())).error is None
    [row] = await client.rows("responses")
    ledger = client.gateway._ledger
    ends = [{"row": row["key"], "state": "completed", "reason": "", "end_ns": number} for number in range(5)]
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE responses")
        monkeypatch.setattr(postgres_module, "_COMMIT_SECONDS", 0.2)
        monkeypatch.setattr(postgres_module, "MAX_UNWRITTEN", 3)
        ledger._writer.write_soon(*((ledger._statements.end_response, end) for end in ends))
        refused = await client.stream(ask(), new_id())
        assert refused.error.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    monkeypatch.undo()
    assert (await client.stream(ask(), new_id())).error is None
    assert "records are lost" in caplog.text
    assert {one["end_ns"] for one in await client.rows("responses") if one["key"] == row["key"]} == {4}


async def test_a_deadlock_is_tried_again(gateways: Any, ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await gateways()
    commit, met = psycopg.AsyncConnection.commit, []

    async def deadlocked(connection: Any) -> None:
        met.append(connection)
        if len(met) == 1:
            raise psycopg.errors.DeadlockDetected
        await commit(connection)

    monkeypatch.setattr(psycopg.AsyncConnection, "commit", deadlocked)
    assert (await client.stream(ask(), new_id())).error is None
    assert met[0] is met[1]
    assert await states(client) == [("completed", "completed", "provider")]


async def test_a_row_that_cannot_be_written_is_given_up_alone(gateways: Any, ask: Any, caplog: Any) -> None:
    client = await gateways()
    ledger = client.gateway._ledger
    bad = {"row": 1, "state": "far too long for a state", "reason": "", "end_ns": 1}
    assert (await client.stream(ask())).error is None
    [row] = await client.rows("responses")
    good = {"row": row["key"], "state": "cancelled", "reason": "X", "end_ns": 5}
    # Postgres looks at a value only where there is a row for it.
    ledger._writer.write_soon((ledger._statements.end_response, bad | {"row": row["key"]}))
    refused = ledger._writer.write(
        (ledger._statements.insert_response, {**row, "key": row["key"] + SLOTS, "id": "x" * 99})
    )
    # What the driver cannot even send.
    ledger._writer.write_soon((ledger._statements.end_response, good | {"state": object()}))
    written = ledger._writer.write((ledger._statements.insert_response, {**row, "key": row["key"] + 2 * SLOTS}))
    ledger._writer.write_soon((ledger._statements.end_response, good))
    await written
    with pytest.raises(SluiceError, match="cannot write"):
        await refused
    rows = {one["key"]: one for one in await client.rows("responses")}
    assert set(rows) == {row["key"], row["key"] + 2 * SLOTS}
    assert rows[row["key"]]["state"] == "cancelled"
    assert "a row cannot be written" in caplog.text
