"""What the ledger adds up to: by time and by whatever rows are told apart, for whom, and how much of it is certain."""

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import create_engine, insert, text

from sluice.chat.v1.usage_pb2 import Usage, UsageSource
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.gateway.v1 import embedding_service_pb2 as embed_pb
from sluice.gateway.v1 import embedding_service_pb2_grpc as embed_grpc
from sluice.gateway.v1 import usage_service_pb2 as pb
from sluice.gateway.v1 import usage_service_pb2_grpc as pb_grpc
from sluice_gateway.records import usage
from sluice_gateway.records.database import FileDatabase
from sluice_gateway.records.ledger import Ledger
from sluice_gateway.records.schema import attempts, first_key, metadata
from sluice_gateway.services.paging import decode_token, encode_token
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError, from_rpc_error

R = ErrorReason
TENANT, PROVIDER, MODEL, CONVERSATION, OPERATION = range(1, 6)
DAY, WEEK, MONTH = 1, 2, 3


@pytest.fixture
def start(start_recorded: Any) -> Any:
    """Every test below is for both kinds of database."""
    return start_recorded


@pytest.fixture
async def client(start: Any) -> AsyncIterator[Any]:
    async with start() as running:
        yield running


def at(moment: str) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromisoformat(moment).replace(tzinfo=UTC))
    return stamp


def row(moment: str, index: int, **fields: Any) -> dict[str, Any]:
    """An attempt that began at a time."""
    start = at(moment).ToNanoseconds()
    default = {
        "key": first_key(start) + index,
        "id": str(index),
        "response_key": index,
        "tenant": "local",
        "operation": "chat",
        "conversation": "",
        "labels": "{}",
        "number": 1,
        "provider": "p",
        "model": "m",
        "outcome": "completed",
        "reason": "",
        "input_tokens": 10,
        "cached_input_tokens": 4,
        "output_tokens": 2,
        "reasoning_tokens": 1,
        "usage_source": "provider",
        "cost_nano_usd": 100,
        "start_ns": start,
        "ttft_us": 5,
        "duration_us": 9,
    }
    return default | fields


ROWS = [
    row("2024-12-29T23:59:59.999", 1),
    row("2024-12-30T00:00:00", 2, labels=json.dumps({"team": "a", 'odd " key.x': "ü"})),
    row("2025-01-05T12:00:00", 3, model="other", outcome="failed", usage_source="estimated", labels='{"team": "b"}'),
    row("2025-01-06T00:00:00", 4, outcome="cancelled", usage_source="partial", cost_nano_usd=None),
    row("2025-01-31T23:59:59", 5, provider="q", operation="embed", output_tokens=0),
    row("2025-01-31T23:59:59", 6, response_key=5, number=2, provider="q", operation="embed", usage_source="estimated"),
    row("2025-02-01T00:00:00", 7, outcome="cached", usage_source="", cost_nano_usd=0, input_tokens=0, output_tokens=0),
    row("2025-02-01T00:00:00", 8, outcome="running", usage_source="", cost_nano_usd=None, input_tokens=0),
    row("2025-01-10T00:00:00", 9, tenant="elsewhere", cost_nano_usd=7),
]
WINTER = {"start_time": at("2024-12-01T00:00:00"), "end_time": at("2025-03-01T00:00:00")}


async def fill(client: Any) -> None:
    await client.gateway._ledger._writer.ask(lambda connection: connection.execute(insert(attempts), ROWS))


async def query(client: Any, metadata: Any = None, **fields: Any) -> pb.QueryUsageResponse:
    stub: Any = pb_grpc.UsageServiceStub(client.channel)
    answer: pb.QueryUsageResponse = await stub.QueryUsage(pb.QueryUsageRequest(**fields), metadata=metadata)
    return answer


async def failure_of(call: Any) -> SluiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def days(answer: pb.QueryUsageResponse) -> dict[str, int]:
    """Attempts by the start of their period."""
    return {
        one.period_start.ToDatetime().strftime("%Y-%m-%d %H:%M"): one.figures.attempts + one.figures.cached
        for one in answer.rows
    }


async def test_time_is_divided_in_utc(client: Any) -> None:
    await fill(client)
    assert days(await query(client, granularity=DAY, **WINTER)) == {
        "2024-12-29 00:00": 1,
        "2024-12-30 00:00": 1,
        "2025-01-05 00:00": 1,
        "2025-01-06 00:00": 1,
        "2025-01-31 00:00": 2,
        "2025-02-01 00:00": 2,
    }
    # The week of 2024-12-30 belongs to both years, and begins on a Monday.
    assert days(await query(client, granularity=WEEK, **WINTER)) == {
        "2024-12-23 00:00": 1,
        "2024-12-30 00:00": 2,
        "2025-01-06 00:00": 1,
        "2025-01-27 00:00": 4,
    }
    assert days(await query(client, granularity=MONTH, **WINTER)) == {
        "2024-12-01 00:00": 2,
        "2025-01-01 00:00": 4,
        "2025-02-01 00:00": 2,
    }
    [whole] = (await query(client, **WINTER)).rows
    assert not whole.HasField("period_start")
    assert whole.figures.attempts == 7
    part = await query(client, start_time=at("2024-12-30T00:00:00"), end_time=at("2025-01-06T00:00:00"))
    assert part.totals.attempts == 2  # the start belongs to the range, the end does not
    assert part.start_time == at("2024-12-30T00:00:00")


async def test_figures_say_how_certain_they_are(client: Any) -> None:
    await fill(client)
    totals = (await query(client, **WINTER)).totals
    outcomes = (totals.completed, totals.failed, totals.cancelled, totals.running, totals.cached)
    assert outcomes == (4, 1, 1, 1, 1)
    assert (totals.requests, totals.attempts) == (7, 7)  # two attempts of one request, and one that needed none
    assert (totals.cost_nano_usd, totals.unpriced_attempts) == (500, 1)
    assert totals.usage.source == UsageSource.USAGE_SOURCE_PARTIAL
    assert (totals.usage.input_tokens, totals.usage.output_tokens) == (60, 10)
    parts = {one.usage.source: (one.attempts, one.usage.input_tokens) for one in totals.by_source}
    assert parts == {
        UsageSource.USAGE_SOURCE_PROVIDER: (3, 30),
        UsageSource.USAGE_SOURCE_ESTIMATED: (2, 20),
        UsageSource.USAGE_SOURCE_PARTIAL: (1, 10),
    }
    nothing = (await query(client, end_time=at("1999-01-01T00:00:00"))).totals
    assert nothing == pb.UsageFigures(usage=Usage())


async def test_rows_are_told_apart_by_what_is_asked(client: Any) -> None:
    await fill(client)
    answer = await query(client, group_by=[MODEL, PROVIDER], **WINTER)
    assert [(one.provider, one.model, one.figures.requests) for one in answer.rows] == [
        ("p", "m", 5),
        ("p", "other", 1),
        ("q", "m", 1),
    ]
    assert not answer.rows[0].tenant
    answer = await query(client, group_by=[OPERATION], **WINTER)
    assert {one.operation: one.figures.attempts for one in answer.rows} == {
        pb.USAGE_OPERATION_CHAT: 5,
        pb.USAGE_OPERATION_EMBED: 2,
    }
    keys = ["team", 'odd " key.x']
    answer = await query(client, label_keys=keys, group_by=[MODEL], **WINTER)
    assert [(one.model, *(one.labels[key] for key in keys), one.figures.attempts) for one in answer.rows] == [
        ("m", "", "", 5),
        ("m", "a", "ü", 1),
        ("other", "b", "", 1),
    ]
    assert [one.conversation for one in (await query(client, group_by=[CONVERSATION], **WINTER)).rows] == [""]


async def test_pages_hold_each_row_once(client: Any) -> None:
    await fill(client)
    asked: Mapping[str, Any] = {"granularity": DAY, "group_by": [PROVIDER, MODEL], "label_keys": ["team"]}
    whole = await query(client, **asked, **WINTER)
    seen: list[pb.UsageRow] = []
    token = ""
    while True:
        page = await query(client, **asked, **WINTER, page_size=2, page_token=token)
        seen += page.rows
        assert page.HasField("totals") == (not token)
        token = page.next_page_token
        if not token:
            break
    assert seen == list(whole.rows)
    assert len(seen) == 6
    first = await query(client, **asked, page_size=1, **WINTER)
    for fields in ({"group_by": [MODEL]}, {**asked, "page_token": "bm90IG91cnM="}, {**asked, "page_token": "@"}):
        failure = await failure_of(query(client, **{"page_token": first.next_page_token, **fields}))
        assert failure.violations[0].field == "page_token"
    known, start_ns, end_ns, place = json.loads(decode_token(first.next_page_token))
    for forged in (
        "[" * 100_000,
        json.dumps([known, start_ns, end_ns, []]),
        json.dumps([known, start_ns, end_ns, [*place, "more"]]),
        json.dumps([known, 10**30, end_ns, place]),
        json.dumps([known, start_ns, end_ns, [place[0], *["\0" for _ in place[1:]]]]),
        json.dumps([known, start_ns, end_ns, ["text", *place[1:]]]),
    ):
        failure = await failure_of(query(client, **asked, page_token=encode_token(forged)))
        assert failure.violations[0].field == "page_token"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"start_time": at("2025-01-01T00:00:00"), "end_time": at("2025-01-01T00:00:00")}, "end_time"),
        ({"start_time": at("2001-01-01T00:00:00"), "end_time": at("2025-01-01T00:00:00")}, "end_time"),
        ({"start_time": at("1950-01-01T00:00:00")}, "start_time"),
        ({"end_time": at("9999-01-01T00:00:00")}, "end_time"),
        ({"group_by": [0]}, "group_by[0]"),
        ({"group_by": [MODEL, MODEL]}, "group_by"),
        ({"granularity": 9}, "granularity"),
    ],
)
async def test_what_cannot_be_asked(client: Any, fields: dict[str, Any], field: str) -> None:
    failure = await failure_of(query(client, **fields))
    assert failure.violations[0].field == field
    assert ("1970 to 2248" in failure.message) == (len(fields) == 1 and field.endswith("_time"))


async def test_users_see_their_tenant_alone(start: Any, ask: Any, tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    rows = [("u", "one", "user"), ("e", "two", "editor"), ("a", "two", "admin")]
    keys.write_text(
        "keys:\n"
        + "".join(
            f"  - {{id: {name}, sha256: {hashlib.sha256(name.encode()).hexdigest()}, tenant: {tenant}, roles: [{role}]}}\n"
            for name, tenant, role in rows
        )
    )
    async with start(auth={"mode": "keys", "keys_file": str(keys)}) as client:
        user, editor, admin = ([("authorization", f"Bearer {name}")] for name, _, _ in rows)
        for who, times in ((user, 1), (editor, 2)):
            for _ in range(times):
                assert (await client.stream(ask(), metadata=who)).error is None
        assert (await query(client, user)).totals.requests == 1
        assert (await query(client, editor)).totals.requests == 2
        assert (await query(client, admin)).totals.requests == 2
        for who in (user, editor):
            failure = await failure_of(query(client, who, group_by=[TENANT]))
            assert failure.reason == R.ERROR_REASON_PERMISSION_DENIED
        # Nor does the token of an administrator's page open the door.
        page = await query(client, admin, group_by=[TENANT], page_size=1)
        failure = await failure_of(query(client, user, group_by=[TENANT], page_token=page.next_page_token))
        assert failure.reason == R.ERROR_REASON_PERMISSION_DENIED
        answer = await query(client, admin, group_by=[TENANT])
        assert [(one.tenant, one.figures.requests) for one in answer.rows] == [("one", 1), ("two", 2)]
        assert answer.totals.requests == 3


async def test_answers_are_on_record_with_their_labels_also_when_the_client_left(
    start: Any, ask: Any, until: Any, placement: str
) -> None:
    async with start(placement=placement) as client:
        assert (await client.stream(ask(labels={"team": "a"}))).error is None
        call = client.chat.StreamChat(
            chat_pb.StreamChatRequest(spec=ask("scripted/text?tokens=10000&delay_ms=5", labels={"team": "b"}))
        )
        await client.collect(call, until=lambda seen: "text_delta" in seen.kinds)
        running = {one.labels["team"]: one.figures for one in (await query(client, label_keys=["team"])).rows}
        assert (running["a"].completed, running["b"].running) == (1, 1)
        call.cancel()
        await until(lambda: client.gateway.responses.running == 0)
        ended = {one.labels["team"]: one.figures for one in (await query(client, label_keys=["team"])).rows}
    assert ended["b"].cancelled == 1
    assert ended["b"].usage.source != UsageSource.USAGE_SOURCE_PROVIDER
    assert ended["b"].usage.output_tokens > 0
    assert ended["a"].usage.source == UsageSource.USAGE_SOURCE_PROVIDER


async def test_what_no_database_keeps_is_refused_and_breaks_no_query(client: Any, ask: Any) -> None:
    for labels in ({"team": "a\0"}, {"te\0am": "a"}):
        refused = (await client.stream(ask(labels=labels))).error
        assert (refused.reason, refused.violations[0].field) == (R.ERROR_REASON_INVALID_REQUEST, "spec.labels")
        embed: Any = embed_grpc.EmbeddingServiceStub(client.channel)
        request = embed_pb.EmbedRequest(model="scripted/embed", texts=["a"], labels=labels)
        assert (await failure_of(embed.Embed(request))).violations[0].field == "labels"
    for model in ("scripted/echo\0", "scripted/echo\n", "scripted/\x1b[2J"):
        unknown = (await client.stream(ask(model))).error
        assert unknown.reason == R.ERROR_REASON_MODEL_NOT_FOUND
        assert unknown.message.isprintable()
    assert (await client.stream(ask(labels={"team": "b"}))).error is None
    answer = await query(client, label_keys=["team"])
    assert [one.labels["team"] for one in answer.rows] == ["b"]
    assert (await failure_of(query(client, label_keys=["te\0am"]))).violations[0].field == "label_keys"


SLOW = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT max(i) FROM n")


async def test_a_query_is_bounded_in_time_and_number(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = client.gateway._ledger.usage
    monkeypatch.setattr(usage, "_SECONDS", 0.05)
    failures = await asyncio.gather(*(reader._run(SLOW) for _ in range(usage._MAX_WAITING + 1)), return_exceptions=True)
    reasons = [failure.reason for failure in failures if isinstance(failure, SluiceError)]
    assert reasons.count(R.ERROR_REASON_DEADLINE_EXCEEDED) == usage._MAX_WAITING
    assert reasons.count(R.ERROR_REASON_TOO_MANY_IN_FLIGHT) == 1
    monkeypatch.setattr(usage, "_SECONDS", 60)
    leaving = asyncio.create_task(reader._run(SLOW))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert reader._running == 0
    await fill(client)
    assert (await query(client, **WINTER)).totals.attempts == 7


async def test_what_cannot_be_read_is_said(client: Any) -> None:
    ledger: Ledger = client.gateway._ledger
    await ledger._writer.ask(lambda connection: connection.exec_driver_sql("ALTER TABLE attempts RENAME TO away"))
    failure = await failure_of(query(client))
    assert failure.reason == R.ERROR_REASON_STORE_UNAVAILABLE
    await ledger._writer.ask(lambda connection: connection.exec_driver_sql("ALTER TABLE away RENAME TO attempts"))
    assert (await query(client)).totals.attempts == 0


_OLD = """
CREATE TABLE responses ("key" INTEGER NOT NULL, id VARCHAR(64) NOT NULL, tenant VARCHAR(128) NOT NULL,
    subject VARCHAR(256) NOT NULL, key_id VARCHAR(128) NOT NULL, method VARCHAR(64) NOT NULL, request_id VARCHAR(36),
    fingerprint VARCHAR(64) NOT NULL, model VARCHAR(320) NOT NULL, labels TEXT NOT NULL, state VARCHAR(16) NOT NULL,
    reason VARCHAR(64) NOT NULL, accept_ns BIGINT NOT NULL, end_ns BIGINT, PRIMARY KEY ("key"));
CREATE UNIQUE INDEX responses_request_id ON responses (tenant, method, request_id) WHERE request_id IS NOT NULL;
CREATE TABLE attempts ("key" INTEGER NOT NULL, id VARCHAR(36) NOT NULL, response_key BIGINT NOT NULL,
    tenant VARCHAR(128) NOT NULL, number INTEGER NOT NULL, provider VARCHAR(64) NOT NULL, model VARCHAR(256) NOT NULL,
    outcome VARCHAR(16) NOT NULL, reason VARCHAR(64) NOT NULL, input_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL, reasoning_tokens BIGINT NOT NULL,
    usage_source VARCHAR(16) NOT NULL, cost_nano_usd BIGINT, start_ns BIGINT NOT NULL, ttft_us BIGINT,
    duration_us BIGINT, PRIMARY KEY ("key"));
"""


@pytest.mark.parametrize("records", ["sqlite"], indirect=True)
async def test_tables_of_an_older_program_are_brought_up_to_date(start: Any, ask: Any, tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    path = tmp_path / "gateway" / "records.db"
    old = sqlite3.connect(path)
    old.executescript(_OLD)
    old.execute("""INSERT INTO responses VALUES (1, 'r', 'local', '', '', 'Chat', NULL, '', 'm', '{"team": "a"}', 'completed',
        '', 1, 2)""")
    for number, response_key in ((1, 1), (2, 99)):
        old.execute(
            """INSERT INTO attempts VALUES (:key + :number, :id, :response, :tenant, 1, :provider, :model, :outcome, '',
            :input_tokens, :cached_input_tokens, :output_tokens, :reasoning_tokens, :usage_source, :cost_nano_usd, :start_ns,
            :ttft_us, :duration_us)""",
            ROWS[0] | {"response": response_key, "number": number},
        )
    old.commit()
    old.close()
    for _ in range(2):
        async with start(state_dir=str(tmp_path)) as client:
            answer = await query(client, label_keys=["team"], **WINTER)
            assert {one.labels["team"]: one.figures.attempts for one in answer.rows} == {"": 1, "a": 1}
            assert (await client.stream(ask())).error is None
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "gateway_version"})
        different = compare_metadata(context, metadata)
        assert connection.exec_driver_sql("PRAGMA user_version").scalar_one() == 3
        indexes = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'").scalars().all()
        assert "attempts_tenant" in indexes
        connection.exec_driver_sql("PRAGMA user_version=4")
    engine.dispose()
    # Some indexes are Postgres's alone.
    assert not [one for one in different if one[0] != "add_index" or not one[1].name.endswith(("_running", "_left"))]
    with pytest.raises(ConfigError, match="newer version"):
        FileDatabase(path)
