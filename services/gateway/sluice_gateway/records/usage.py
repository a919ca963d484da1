"""Sums over the ledger's attempts, computed by the database in threads of their own.

The write-ahead log lets them read beside the writer. SQLite gives the interpreter's lock away while it computes (and
Postgres computes elsewhere), and few rows come out, so the event loop goes on undisturbed, however many rows are added
up.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Engine,
    Executable,
    Integer,
    Select,
    String,
    cast,
    collate,
    func,
    literal,
    select,
    tuple_,
)
from sqlalchemy.exc import SQLAlchemyError

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_gateway.records.schema import attempts, first_key
from sluice_kit.errors import DeadlineError, LimitError, SluiceError, make_error

PERIODS: Final = ("", "day", "week", "month")
"""How time may be divided; empty: not at all."""
DIMENSIONS: Final = ("tenant", "provider", "model", "conversation", "operation")
"""Columns that rows may be told apart by, in this order."""
SOURCES: Final = ("provider", "estimated", "partial")
"""Where counts of tokens come from."""
_THREADS: Final = 2
_MAX_WAITING: Final = 16
_SECONDS: Final = 20.0
"""Longest that the database may compute. A long read also keeps the write-ahead log from being cut back."""
_INTERRUPT_SECONDS: Final = 0.05
_DAY_NS: Final = 86_400 * 10**9
_WEEKDAY_OF_1970: Final = 3
"""The first day of 1970 was a Thursday: three days after Monday."""

Place: TypeAlias = tuple[int | str, ...]
"""Where a row stands among the others: its period, then what it is told apart by."""


@dataclass(frozen=True, slots=True)
class Query:
    """What to add up. Times are nanoseconds since 1970 and the end is not included."""

    start_ns: int
    end_ns: int
    tenant: str | None
    """None: all of them."""
    period: str = ""
    dimensions: tuple[str, ...] = ()
    """Some of DIMENSIONS, in their order."""
    label_keys: tuple[str, ...] = ()


class Sums(NamedTuple):
    """One row of sums, or the totals."""

    place: Place
    """Day since 1970 on which the period begins (0 where time is not divided), and the values of the dimensions and the
    labels. Empty for totals."""
    numbers: Mapping[str, int]
    """`requests`, `attempts`, `cost`, `unpriced`, the outcomes, and for each source `SOURCE_attempts`, `SOURCE_input`,
    `SOURCE_cached_input`, `SOURCE_output` and `SOURCE_reasoning`."""


_OUTCOMES: Final = ("completed", "failed", "cancelled", "running", "cached")


class UsageReader:
    """Answers queries. Make it inside the event loop; `flush` has the writer write what is queued."""

    def __init__(self, engine: Engine, flush: Callable[[], Awaitable[None]]) -> None:
        """`engine` gives each reader a connection of its own, which it closes."""
        self._engine = engine
        self._flush = flush
        self._threads = ThreadPoolExecutor(_THREADS, "sluice-usage")
        self._running = 0

    async def rows(self, query: Query, after: Place | None, limit: int) -> Sequence[Sums]:
        """Returns at most so many rows in the order of their places, those after one of them.

        Raises TOO_MANY_IN_FLIGHT, DEADLINE_EXCEEDED or STORE_UNAVAILABLE.
        """
        statement, names = _grouped(query, postgres=self._engine.dialect.name == "postgresql")
        rows = statement.subquery()
        keys = [rows.c[name] for name in names]
        chosen = select(rows).order_by(*keys).limit(limit)
        if after is not None:
            chosen = chosen.where(tuple_(*keys) > tuple_(*(literal(value) for value in after)))
        return [_sums(row, names) for row in await self._run(chosen)]

    async def totals(self, query: Query) -> Sums:
        """Returns the sums over everything. Raises as `rows` does."""
        [row] = await self._run(select(*_figures()).where(*_range(query)))
        return _sums(row, ())

    async def close(self) -> None:
        """Ends what runs."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def _run(self, statement: Executable) -> Sequence[Mapping[str, Any]]:
        if self._running >= _MAX_WAITING:
            raise LimitError("the gateway answers as many queries of its records as it may", retry_after=1.0)
        await self._flush()
        reading = _Reading(self._engine, statement)
        loop = asyncio.get_running_loop()
        self._running += 1
        try:
            work = loop.run_in_executor(self._threads, reading.run)
            try:
                async with asyncio.timeout(_SECONDS):
                    return await asyncio.shield(work)
            except TimeoutError:
                raise DeadlineError("this takes too long to add up; ask for a shorter time") from None
            finally:
                await reading.stop(work)
        except SQLAlchemyError as error:
            raise _unavailable(error) from None
        finally:
            self._running -= 1


class _Reading:
    """One statement in a thread, which can be stopped from the loop's."""

    def __init__(self, engine: Engine, statement: Executable) -> None:
        self._engine = engine
        self._statement = statement
        self._driver: Any = None
        self._stopped = False

    def run(self) -> Sequence[Mapping[str, Any]]:
        if self._stopped:
            return []
        with self._engine.connect() as connection:
            self._driver = connection.connection.driver_connection
            try:
                return [dict(row) for row in connection.execute(self._statement).mappings()]
            finally:
                self._driver = None

    async def stop(self, work: "asyncio.Future[Any]") -> None:
        """Returns when the thread is done with it, which it soon is."""
        self._stopped = True
        while not work.done():
            driver = self._driver
            if isinstance(driver, sqlite3.Connection):
                with contextlib.suppress(sqlite3.ProgrammingError):  # it was closed in this very moment
                    driver.interrupt()
            elif driver is not None:
                await asyncio.to_thread(driver.cancel)  # asks the server, which takes a connection
            # It may have been between two statements, where there was nothing to interrupt.
            await asyncio.wait((work,), timeout=_INTERRUPT_SECONDS)
        if not work.cancelled():
            work.exception()  # known to whoever waited


def _grouped(query: Query, *, postgres: bool) -> tuple[Select[Any], list[str]]:
    """Returns the sums by group, and the names of the columns that make a place."""
    texts: list[ColumnElement[str]] = [attempts.c[name] for name in query.dimensions]
    names = [*query.dimensions, *(f"label_{number}" for number in range(len(query.label_keys)))]
    if postgres:
        # In the order of their bytes, whatever the database was told of languages.
        texts = [collate(text, "C") for text in (*texts, *map(_label_in_postgres, query.label_keys))]
    else:
        texts += map(_label, query.label_keys)
    period = _month_in_postgres() if postgres and query.period == "month" else _period(query.period)
    place: list[ColumnElement[Any]] = [period.label("period")]
    place += [text.label(name) for name, text in zip(names, texts, strict=True)]
    statement = select(*place, *_figures()).where(*_range(query)).group_by(*(column.name for column in place))
    return statement, [column.name for column in place]


def _range(query: Query) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [
        # Keys grow with time and are never behind it. They may be a little ahead, where the clock was set back.
        attempts.c.key >= first_key(query.start_ns),
        attempts.c.key < first_key(query.end_ns + _DAY_NS),
        attempts.c.start_ns >= query.start_ns,
        attempts.c.start_ns < query.end_ns,
    ]
    if query.tenant is not None:
        conditions.append(attempts.c.tenant == query.tenant)
    return conditions


def _period(period: str) -> ColumnElement[int]:
    """Returns the day since 1970 on which an attempt's period began."""
    day = attempts.c.start_ns // _DAY_NS
    if period == "day":
        return day
    if period == "week":
        return day - (day + _WEEKDAY_OF_1970) % 7
    if period == "month":
        seconds = attempts.c.start_ns // 10**9
        return cast(func.strftime("%s", seconds, "unixepoch", "start of month", type_=String), Integer) // 86_400
    return literal(0)


def _label(key: str) -> ColumnElement[str]:
    entries = func.json_each(attempts.c.labels).table_valued("key", "value")
    value = select(entries.c.value).where(entries.c.key == key).correlate(attempts).scalar_subquery()
    return func.coalesce(value, "")


def _month_in_postgres() -> ColumnElement[int]:
    begin = func.date_trunc("month", func.timezone("UTC", func.to_timestamp(attempts.c.start_ns // 10**9)))
    return cast(func.extract("epoch", begin), BigInteger) // 86_400


def _label_in_postgres(key: str) -> ColumnElement[str]:
    return func.coalesce(cast(attempts.c.labels, JSON)[key].as_string(), "")


def _figures() -> list[ColumnElement[int]]:
    outcome, source = attempts.c.outcome, attempts.c.usage_source
    is_attempt = outcome != "cached"
    columns: list[ColumnElement[int]] = [
        func.count(attempts.c.response_key.distinct()).label("requests"),
        func.count().filter(is_attempt).label("attempts"),
        _sum(attempts.c.cost_nano_usd).label("cost"),
        func.count().filter(is_attempt, outcome != "running", attempts.c.cost_nano_usd.is_(None)).label("unpriced"),
    ]
    columns += [func.count().filter(outcome == name).label(name) for name in _OUTCOMES]
    for one in SOURCES:
        columns.append(func.count().filter(is_attempt, source == one).label(f"{one}_attempts"))
        for kind in ("input", "cached_input", "output", "reasoning"):
            columns.append(_sum(attempts.c[f"{kind}_tokens"], source == one).label(f"{one}_{kind}"))
    return columns


def _sum(column: ColumnElement[int], *conditions: ColumnElement[bool]) -> ColumnElement[int]:
    total = func.sum(column)
    # Postgres makes sums of whole numbers a decimal one.
    return cast(func.coalesce(total.filter(*conditions) if conditions else total, 0), BigInteger)


def _sums(row: Mapping[str, Any], names: Sequence[str]) -> Sums:
    return Sums(tuple(row[name] for name in names), {name: row[name] for name in row if name not in names})


def _unavailable(error: SQLAlchemyError) -> SluiceError:
    kind = type(error).__name__
    return make_error(
        ErrorReason.ERROR_REASON_STORE_UNAVAILABLE, f"the gateway cannot read its records ({kind})", retry_after=1.0
    )
