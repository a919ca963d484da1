"""How long conversations and the ledger are kept, whose they are, and the tables that hold them."""

import asyncio
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, func, inspect, select, text, update

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import conversation_service_pb2 as pb
from sluice.gateway.v1 import conversation_service_pb2_grpc as pb_grpc
from sluice_gateway.conversations.database import Database
from sluice_gateway.conversations.migrate import STEPS
from sluice_gateway.conversations.models import Base, ConversationRow, TurnRow
from sluice_gateway.records.schema import attempts, responses
from sluice_kit.config import ConfigError

from .talking import NAME, Talker, failure

R = ErrorReason
DAY = 86_400


def of(**fields: Any) -> pb.Retention:
    retention = pb.Retention(max_turns=fields.get("max_turns"))
    if "max_age" in fields:
        retention.max_age.FromTimedelta(timedelta(seconds=fields["max_age"]))
    return retention


async def age(talker: Talker, seconds: float) -> None:
    """Makes turns older."""
    past = int(seconds * 1e9)
    older = update(TurnRow).values(create_ns=TurnRow.create_ns - past)
    await talker.client.gateway.conversations._database.write(lambda session: session.execute(older))


async def leave_alone(talker: Talker, seconds: float) -> None:
    """Makes it so long ago that something happened in a conversation."""
    past = int(seconds * 1e9)
    older = update(ConversationRow).values(update_ns=ConversationRow.update_ns - past)
    await talker.client.gateway.conversations._database.write(lambda session: session.execute(older))


async def rows(talker: Talker) -> int:
    """Returns how many turns the database holds."""
    count: int = await talker.client.gateway.conversations._database.read(
        lambda session: session.scalar(select(func.count()).select_from(TurnRow))
    )
    return count


async def test_only_so_many_turns_are_kept(talker: Talker) -> None:
    await talker.create(retention=of(max_turns=2))
    seen = [await talker.say(str(number)) for number in range(4)]
    assert [turn.number for turn in await talker.turns()] == [3, 4]
    assert (await talker.get()).turn_count == 2
    await talker.say("last")
    assert talker.told.texts == ["2", "2", "3", "3", "last"]
    assert await rows(talker) == 5
    assert await talker.client.gateway.conversations.sweep(100) is False
    assert await rows(talker) == 2
    forgotten = await talker.client.resume(seen[0].response)
    assert forgotten.error is not None
    assert forgotten.error.reason == R.ERROR_REASON_NOT_FOUND
    assert (await talker.get()).retention.max_turns == 2


async def test_what_is_too_old_is_gone_before_it_is_deleted(talker: Talker) -> None:
    await talker.create(retention=of(max_age=DAY))
    await talker.say("old")
    await age(talker, 2 * DAY)
    assert await talker.turns() == []
    await talker.say("new")
    assert talker.told.texts == ["new"]
    assert await rows(talker) == 2
    await talker.client.gateway.conversations.sweep(100)
    assert await rows(talker) == 1
    assert [turn.number for turn in await talker.turns()] == [2]


async def test_a_conversation_in_which_nothing_happens_is_deleted(talker: Talker) -> None:
    await talker.create(retention=of(max_age=DAY))
    await talker.say("old")
    await age(talker, 2 * DAY)
    await talker.client.gateway.conversations.sweep(100)
    assert (await talker.get()).turn_count == 0
    await leave_alone(talker, 2 * DAY)
    await talker.client.gateway.conversations.sweep(100)
    assert (await failure(talker.get())).reason == R.ERROR_REASON_NOT_FOUND


async def test_a_pass_does_a_bounded_amount_of_work(start: Any, ask: Any, database: dict[str, Any]) -> None:
    async with start({"conversations": {**database, "max_turns": 1}}) as client:
        talker = Talker(client, ask)
        for number in range(5):
            await talker.create(conversation_id=f"c{number}")
            for text_ in ("one", "two"):
                await talker.say(text_, conversation=f"conversations/c{number}")
        left = [await client.gateway.conversations.sweep(2)]
        assert await rows(talker) == 8
        while left[-1]:
            left.append(await client.gateway.conversations.sweep(2))
        assert await rows(talker) == 5
    assert left == [True, True, False]


async def test_an_answer_that_runs_is_not_swept(talker: Talker, until: Any) -> None:
    await talker.create(retention=of(max_age=1))
    task = asyncio.ensure_future(talker.say("slow", "scripted/text?tokens=20&delay_ms=10"))
    await until(lambda: bool(talker.told.requests))
    await age(talker, DAY)
    await leave_alone(talker, DAY)
    await talker.client.gateway.conversations.sweep(100)
    seen = await task
    assert seen.error is None
    assert seen.kinds[-1] == "completed"
    assert "notice" not in seen.kinds


async def test_the_ledger_is_swept_a_little_at_a_time(start: Any, ask: Any) -> None:
    retention = {"responses_seconds": 1, "attempts_seconds": 2 * DAY, "batch": 3}
    async with start({"retention": retention}) as client:
        for _ in range(5):
            await client.stream(ask())
        sweeper, ledger = client.gateway._sweeper, client.gateway._ledger
        assert await sweeper.sweep() is False
        assert len(await client.rows("responses")) == 5, "request ids are remembered for a day"
        shift = 3 * DAY * 1000 << 20
        for table in (responses, attempts):
            older = update(table).values(key=table.c.key - shift)
            await ledger._writer.ask(lambda connection, older=older: connection.execute(older))
        await client.stream(ask())
        assert await sweeper.sweep() is True
        assert (len(await client.rows("responses")), len(await client.rows("attempts"))) == (3, 3)
        assert await sweeper.sweep() is False
        assert (len(await client.rows("responses")), len(await client.rows("attempts"))) == (1, 1)


async def test_the_sweeper_sweeps(start: Any, ask: Any, until: Any) -> None:
    settings = {"conversations": {"max_turns": 1}, "retention": {"sweep_seconds": 0.01}}
    async with start(settings) as client:
        talker = Talker(client, ask)
        await talker.create()
        first = await talker.say("one")
        await talker.say("two")
        await until(lambda: first.response.removeprefix("responses/") not in client.gateway.responses._by_id)
        assert await rows(talker) == 1


async def test_a_pass_that_fails_is_followed_by_another(
    start: Any, ask: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start({"retention": {"sweep_seconds": 0.01}}) as client:
        passes: list[int] = []

        async def sweep(limit: int) -> bool:
            passes.append(limit)
            raise RuntimeError("broken")

        monkeypatch.setattr(client.gateway.conversations, "sweep", sweep)
        await until(lambda: len(passes) > 2)


async def test_a_conversation_is_its_tenants_alone(start: Any, ask: Any, tmp_path: Path) -> None:
    keys = {"one": "k" * 40, "two": "m" * 40}
    table = [
        {
            "id": name,
            "sha256": hashlib.sha256(key.encode()).hexdigest(),
            "tenant": name,
            "subject": name,
            "roles": ["user"],
        }
        for name, key in keys.items()
    ]
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": table}))
    auth = {"mode": "keys", "keys_file": str(tmp_path / "keys.yaml")}
    async with start(auth=auth) as client:
        talker = Talker(client, ask)
        stub: Any = pb_grpc.ConversationServiceStub(client.channel)
        mine, theirs = ((("authorization", f"Bearer {key}"),) for key in keys.values())
        create = pb.CreateConversationRequest(conversation_id="talk")
        await stub.CreateConversation(create, metadata=mine)
        said = await client.stream(talker.spec("secret"), metadata=mine)
        assert said.error is None
        for call in (
            stub.GetConversation(pb.GetConversationRequest(name=NAME), metadata=theirs),
            stub.ListTurns(pb.ListTurnsRequest(conversation=NAME), metadata=theirs),
            stub.ClearConversation(pb.ClearConversationRequest(name=NAME), metadata=theirs),
            stub.DeleteConversation(pb.DeleteConversationRequest(name=NAME), metadata=theirs),
        ):
            assert (await failure(call)).reason == R.ERROR_REASON_NOT_FOUND
        refused = await client.stream(talker.spec("hello"), metadata=theirs)
        assert refused.error is not None
        assert refused.error.reason == R.ERROR_REASON_NOT_FOUND
        assert not (await stub.ListConversations(pb.ListConversationsRequest(), metadata=theirs)).conversations
        # The same name is another conversation.
        await stub.CreateConversation(create, metadata=theirs)
        await client.stream(talker.spec("mine"), metadata=theirs)
        assert talker.told.texts == ["mine"]
        turns = (await stub.ListTurns(pb.ListTurnsRequest(conversation=NAME), metadata=mine)).turns
        assert [turn.subject for turn in turns] == ["one"]


def tables(url: str | None, path: Path) -> Database:
    return Database(url, path, 2, lambda _: None)


async def opened(database: Database) -> None:
    try:
        await database.open()
    finally:
        await database.close()


async def test_the_tables_are_those_of_the_models(database: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    await opened(tables(database.get("url"), path))
    url = database.get("url", f"sqlite:///{path}").replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
            indexes = {index["name"] for index in inspect(connection).get_indexes("turns")}
            assert "turns_one_running" in indexes
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == STEPS.head
    finally:
        engine.dispose()


async def test_texts_are_their_owners_to_read(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    database = tables(None, path)
    await database.open()
    modes = await asyncio.to_thread(lambda: {file.stat().st_mode & 0o777 for file in tmp_path.glob("c.db*")})
    await database.close()
    assert modes == {0o600}


async def test_tables_of_a_newer_program_are_refused(database: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    first = tables(database.get("url"), path)
    await first.open()
    await first.write(
        lambda session: session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    )
    await first.close()
    with pytest.raises(ConfigError, match="newer version of this program"):
        await opened(tables(database.get("url"), path))


async def test_gateways_that_start_together_make_the_tables_once(postgres: Any, tmp_path: Path) -> None:
    url = postgres.new_database()
    await asyncio.gather(*(opened(tables(url, tmp_path)) for _ in range(4)))


async def test_a_step_that_fails_changes_nothing(
    database: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("in the midst of a step")

    monkeypatch.setattr("alembic.op.create_index", fail)
    with pytest.raises(RuntimeError, match="in the midst"):
        await opened(tables(database.get("url"), tmp_path / "c.db"))
    monkeypatch.undo()
    await opened(tables(database.get("url"), tmp_path / "c.db"))


@pytest.mark.parametrize("url", ["mysql://u:geheim@h/d", "sqlite://", "not a url: geheim"])
def test_a_url_that_cannot_be_one_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.conversations\.url") as caught:
        tables(url, tmp_path / "c.db")
    assert "geheim" not in str(caught.value)
