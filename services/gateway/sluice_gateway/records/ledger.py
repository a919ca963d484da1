"""The ledger: a row for each response and each attempt, from its start to its end.

A response's row is committed before its `Accepted` is sent, an attempt's before the attempt begins, so that after a
crash every call that may have cost something is on record.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import ColumnElement, Connection, select

from sluice.chat.v1 import event_pb2, usage_pb2
from sluice_gateway.records.database import RecordsDatabase
from sluice_gateway.records.left import REQUEST_ID_SECONDS
from sluice_gateway.records.notes import Notes
from sluice_gateway.records.registered import Registered
from sluice_gateway.records.schema import Keys, metadata, responses
from sluice_gateway.records.statements import BEGUN, Statements
from sluice_gateway.records.sweep import sweep
from sluice_gateway.records.usage import UsageReader
from sluice_gateway.records.writer import Row, unavailable
from sluice_kit.errors import SluiceError, reason_name

if TYPE_CHECKING:
    from sluice_gateway.pipeline.attempt import AttemptRecord
    from sluice_gateway.responses.response import Response

_OUTCOMES: Mapping[int, str] = {
    event_pb2.AttemptOutcome.ATTEMPT_OUTCOME_UNSPECIFIED: "running",
    event_pb2.AttemptOutcome.ATTEMPT_OUTCOME_COMPLETED: "completed",
    event_pb2.AttemptOutcome.ATTEMPT_OUTCOME_FAILED: "failed",
    event_pb2.AttemptOutcome.ATTEMPT_OUTCOME_CANCELLED: "cancelled",
}
_SOURCES: Mapping[int, str] = {
    usage_pb2.UsageSource.USAGE_SOURCE_UNSPECIFIED: "",
    usage_pb2.UsageSource.USAGE_SOURCE_PROVIDER: "provider",
    usage_pb2.UsageSource.USAGE_SOURCE_ESTIMATED: "estimated",
    usage_pb2.UsageSource.USAGE_SOURCE_PARTIAL: "partial",
}
_CLAIM_TRIES = 3

_CLAIM = select(responses.c.id, responses.c.fingerprint, responses.c.state, responses.c.reason)


@dataclass(frozen=True)
class Claim:
    """What the ledger knows of a response: for which request it was, and how it ended."""

    response_id: str
    fingerprint: str
    state: str
    reason: str


class Request(Protocol):
    """What attempts are made for, as their rows name it."""

    @property
    def row_key(self) -> int:
        """Key that the rows of its attempts have in common."""

    @property
    def tenant(self) -> str:
        """Whose it is."""

    @property
    def operation(self) -> str:
        """`chat`, `embed` or `rerank`."""

    @property
    def conversation(self) -> str:
        """Resource name of the conversation it belongs to. Empty: none."""

    @property
    def labels(self) -> str:
        """Its labels, as `labels_text` writes them."""


class Ledger:
    """Responses and attempts in a database. For the event loop's thread."""

    def __init__(self, database: RecordsDatabase) -> None:
        self._database = database
        self._instance = database.instance
        self._statements = Statements(database.engine, shared=database.shared)
        self._keys = Keys(shared=database.shared)
        database.on_slot(self._take_slot)
        self._writer = database.writer
        self._notes = Notes(self._note)
        self.shared = database.shared
        """Whether several gateways may have it."""
        self.usage = UsageReader(database.reading, self._writer.flush)
        """Sums over the attempts."""
        self.registered = Registered(self._writer)
        """The integrations that were registered at run time."""

    def on_left(self, told: Callable[[Sequence[str]], None]) -> None:
        """Has it told the ids of the responses that were ended for a gateway that died. Before `recover`."""
        self._database.on_left(told)

    def _take_slot(self, slot: int) -> None:
        self._keys.slot = slot

    @property
    def queued(self) -> int:
        """How many rows wait to be written."""
        return self._writer.queued

    async def recover(self) -> None:
        """Ends what a crash left open: responses as RESPONSE_LOST, attempts with what they are known to have used.

        Raises ConfigError for the tables of a newer program. A server that is away is no reason not to start.
        """
        await self._database.recover()

    async def close(self) -> None:
        """Writes what is queued and closes the database."""
        self._notes.close()
        await self.usage.close()
        await self._writer.close()
        await self._database.close()

    async def ping(self) -> None:
        """Raises STORE_UNAVAILABLE if the database does not answer."""
        await self._database.ping()

    async def accept(self, response: "Response", row: Row, attempt: "AttemptRecord | None") -> Claim | None:
        """Commits a response's row, and that of its first attempt if it begins at once.

        Returns None if the response is on record now, or the earlier claim if its request id was taken before. Raises
        STORE_UNAVAILABLE.
        """
        statements = self._statements
        rows = [] if attempt is None else [(statements.insert_attempt, self._attempt_row(response, attempt))]
        if row["request_id"] is None:
            await self._writer.write((statements.insert_response, row), *rows)
            self._begun(attempt)
            return None
        query = _CLAIM.where(*_same_request(row))
        for _ in range(_CLAIM_TRIES):
            if await self._writer.claim(statements.claim, row, *rows):
                self._begun(attempt)
                return None
            claim = await self._writer.ask(lambda connection: _first_claim(connection, query))
            if claim is not None:
                return claim
            # The id became free between the two questions.
        raise unavailable("ClaimLost")

    def answered_from_cache(self, request: Request, record: "AttemptRecord") -> None:
        """Writes that a kept answer made an attempt at its target unnecessary."""
        free = {**BEGUN, "outcome": "cached", "cost_nano_usd": 0}
        self._writer.write_soon((self._statements.insert_cached, {**self._attempt_row(request, record), **free}))

    async def attempt_started(self, request: Request, attempt: "AttemptRecord") -> None:
        """Commits an attempt's row. Raises STORE_UNAVAILABLE."""
        await self._writer.write((self._statements.insert_attempt, self._attempt_row(request, attempt)))
        self._begun(attempt)

    def _begun(self, attempt: "AttemptRecord | None") -> None:
        if attempt is not None:
            self._notes.begun(attempt)

    def _note(self, attempt: "AttemptRecord", made: int) -> None:
        self._writer.write_soon((self._statements.note_attempt, {"row": attempt.key, "output_tokens": made}))

    def attempt_ended(self, attempt: "AttemptRecord") -> None:
        """Writes what an attempt used and how it ended."""
        self._notes.ended(attempt)
        self._writer.write_soon((self._statements.end_attempt, {"row": attempt.key, **_end_of(attempt)}))

    def response_left(self, response: "Response", made: Mapping[str, int]) -> None:
        """Writes the end of a response whose gateway died, and of its attempts.

        `made` are the tokens that attempts are estimated to have made, by their ids; an empty one is that of the first.
        What that gateway ended itself stays as it is.
        """
        statements = self._statements
        row: dict[str, Any] = {"row": response.row_key, "end_ns": time.time_ns()}
        self._writer.write_soon((statements.leave_response, row), (statements.leave_attempts, row))
        for attempt, tokens in made.items():
            estimate = {"row": response.row_key, **_one(attempt), "made": tokens}
            self._writer.write_soon((statements.estimate_attempt, estimate))

    def response_known(self, response: "Response", attempts: Iterable[event_pb2.Attempt]) -> None:
        """Writes how a response ended that was taken for lost, and what its attempts used, as far as that is known."""
        statements = self._statements
        self._writer.write_soon((statements.amend_response, {"row": response.row_key, **_state_of(response)}))
        for attempt in attempts:
            row = {"row": response.row_key, **_one(attempt.attempt_id), **_end_as_told(attempt)}
            self._writer.write_soon((statements.amend_attempt, row))

    def response_ended(self, response: "Response") -> None:
        """Writes how a response ended."""
        row = {"row": response.row_key, "end_ns": time.time_ns(), **_state_of(response)}
        self._writer.write_soon((self._statements.end_response, row))

    def response_row(
        self, response: "Response", method: str, request_id: str, model: str, labels: Mapping[str, str]
    ) -> Row:
        """Returns a response's row as it is when it is accepted."""
        response.labels = labels_text(labels)
        return {
            "key": response.row_key,
            "id": response.id,
            "tenant": response.tenant,
            "subject": response.identity.subject,
            "key_id": response.identity.key_id,
            "method": method,
            "request_id": request_id.lower() or None,
            "fingerprint": response.fingerprint.hex(),
            "model": model,
            "labels": response.labels,
            "state": response.state.value,
            "reason": "",
            "accept_ns": response.accept_time_ns,
            "end_ns": None,
            "instance": self._instance,
        }

    def _attempt_row(self, request: Request, attempt: "AttemptRecord") -> Row:
        now = time.time_ns()
        attempt.key = self._keys.next(now)
        input_rate, output_rate = attempt.rates or (None, None)
        return {
            "key": attempt.key,
            "id": attempt.id,
            "response_key": request.row_key,
            "tenant": request.tenant,
            "operation": request.operation,
            "conversation": request.conversation,
            "labels": request.labels,
            "number": attempt.number,
            "provider": attempt.target.provider,
            "model": attempt.target.model,
            "start_ns": now,
            "instance": self._instance,
            "input_tokens": attempt.expected_tokens,
            "input_rate": input_rate,
            "output_rate": output_rate,
        }

    async def sweep(self, *, responses_before: int | None, attempts_before: int | None, limit: int) -> bool:
        """Deletes at most `limit` rows of each table that were made before a time, in nanoseconds since 1970.

        None: none of that table. What runs stays, and so do responses whose ids are remembered. Returns whether it left
        work behind. Raises STORE_UNAVAILABLE.
        """
        if responses_before is not None:
            responses_before = min(responses_before, time.time_ns() - REQUEST_ID_SECONDS * 10**9)
        return await self._writer.ask(lambda connection: sweep(connection, responses_before, attempts_before, limit))

    def new_key(self) -> int:
        """Returns the key of a row that is made now."""
        return self._keys.next(time.time_ns())

    async def find(self, tenant: str, key: int, response_id: str) -> Claim | None:
        """Returns what is on record of a response that is no longer in memory. Raises STORE_UNAVAILABLE."""
        query = _CLAIM.where(responses.c.key == key, responses.c.id == response_id, responses.c.tenant == tenant)
        return await self._writer.ask(lambda connection: _first_claim(connection, query))

    async def rows(self, table: str) -> list[dict[str, Any]]:
        """Returns every row of a table, for tests and checks."""
        query = select(metadata.tables[table])
        return await self._writer.ask(lambda connection: [dict(row) for row in connection.execute(query).mappings()])


def labels_text(labels: Mapping[str, str]) -> str:
    """Returns labels as rows hold them."""
    return json.dumps(dict(labels), sort_keys=True) if labels else "{}"


def _end_of(attempt: "AttemptRecord") -> dict[str, Any]:
    return {
        **_outcome_of(attempt),
        "cost_nano_usd": attempt.cost_nano_usd,
        "ttft_us": None if attempt.ttft is None else int(attempt.ttft * 1e6),
        "duration_us": None if attempt.duration is None else int(attempt.duration * 1e6),
    }


def _end_as_told(attempt: event_pb2.Attempt) -> dict[str, Any]:
    """Returns the same of an attempt as clients see it."""
    first, whole = attempt.time_to_first_token, attempt.duration
    return {
        **_outcome_of(attempt),
        "cost_nano_usd": attempt.cost_nano_usd if attempt.HasField("cost_nano_usd") else None,
        "ttft_us": first.ToMicroseconds() if attempt.HasField("time_to_first_token") else None,
        "duration_us": whole.ToMicroseconds() if attempt.HasField("duration") else None,
    }


def _outcome_of(attempt: "AttemptRecord | event_pb2.Attempt") -> dict[str, Any]:
    usage = attempt.usage
    return {
        "outcome": _OUTCOMES[attempt.outcome],
        "reason": reason_name(attempt.error_reason) if attempt.error_reason else "",
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "usage_source": _SOURCES[usage.source],
    }


def _state_of(response: "Response") -> dict[str, str]:
    reason = response.error.reason_name if isinstance(response.error, SluiceError) else ""
    return {"state": response.state.value, "reason": reason}


def _one(attempt: str) -> dict[str, Any]:
    """Returns how statements are told which attempt is meant."""
    return {"attempt": attempt, "first": int(not attempt)}


def _same_request(row: Row) -> Sequence[ColumnElement[bool]]:
    columns = (responses.c.tenant, responses.c.method, responses.c.request_id)
    return [column == row[column.name] for column in columns]


def _first_claim(connection: Connection, query: Any) -> Claim | None:
    found = connection.execute(query).first()
    return Claim(*found) if found is not None else None
