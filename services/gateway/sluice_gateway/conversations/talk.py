"""Talk: the share that an answer has in its conversation, from its place in the order to its turn on record."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sluice.chat.v1.event_pb2 import Event, Notice, NoticeCode
from sluice.chat.v1.message_pb2 import Message
from sluice.chat.v1.target_pb2 import Target
from sluice.gateway.v1 import conversation_service_pb2 as pb
from sluice.gateway.v1.chat_service_pb2 import ChatSpec, WhenBusy
from sluice.provider.v1.provider_service_pb2 import GenerateRequest
from sluice_gateway.conversations import turns
from sluice_gateway.conversations.codec import plain
from sluice_gateway.conversations.database import Database
from sluice_gateway.conversations.order import Place
from sluice_gateway.conversations.recall import Recall, Recalled
from sluice_gateway.conversations.retention import Retention
from sluice_gateway.conversations.store import busy
from sluice_kit.call import Call
from sluice_kit.errors import DeadlineError, SluiceError, to_status

if TYPE_CHECKING:
    from sluice_gateway.responses.response import Response, State

log = logging.getLogger(__name__)

T = TypeVar("T")
_BUSY: Final = "is busy with another answer"
_POLL_SECONDS: Final = 0.25
"""How often the turn of another gateway, which cannot tell this one of its end, is looked at again."""
_RECORD_SECONDS: Final = 15.0
"""Longest an end waits to be recorded."""


class Talk:
    """One answer's share in a conversation.

    It has its place from the moment the request came. `begin` waits for its turn, puts it on record and reads the
    history; `end` records what became of it and gives the place up.
    """

    __slots__ = (
        "_begun",
        "_database",
        "_halved",
        "_history_bytes",
        "_owner",
        "_place",
        "_recall",
        "_recalled",
        "_retention",
        "_told",
        "spec",
    )

    def __init__(
        self,
        spec: ChatSpec,
        place: Place,
        database: Database,
        recall: Recall,
        owner: turns.Owner,
        retention: Retention,
        history_bytes: int,
    ) -> None:
        self.spec = spec
        self._place = place
        self._database = database
        self._recall = recall
        self._owner = owner
        self._retention = retention
        self._history_bytes = history_bytes
        self._begun: turns.Begun | None = None
        self._recalled: dict[tuple[str, str], Recalled] = {}
        self._halved: set[tuple[str, str]] = set()
        self._told: int | None = None

    @property
    def response(self) -> "Response":
        """The answer. Set as soon as there is one, before its task runs."""
        assert self._place.response is not None
        return self._place.response

    @response.setter
    def response(self, response: "Response") -> None:
        self._place.response = response

    @property
    def past(self) -> list[Message]:
        """What was said before, oldest first, as far as it was read. There is nothing before `begin`."""
        turns_before = [] if self._begun is None else self._begun.past.turns
        return [message for turn in turns_before for message in (*turn.question, turn.answer)]

    def leave(self) -> None:
        """Gives the place up. Doing it again changes nothing."""
        self._place.leave()

    async def check(self) -> None:
        """Raises NotFoundError unless the conversation exists, and CONVERSATION_BUSY if another gateway is at it and
        the request does not want to wait."""
        tenant, spec = self.response.tenant, self.spec
        owner = self._owner if spec.when_busy != WhenBusy.WHEN_BUSY_QUEUE else None
        if await self._database.read(
            lambda session: turns.is_busy_elsewhere(session, tenant, spec.conversation, owner, time.time_ns())
        ):
            raise busy(spec.conversation, _BUSY)

    async def begin(self) -> None:
        """Waits for its turn and puts it on record. Raises CONVERSATION_BUSY, NotFoundError or STORE_UNAVAILABLE."""
        await self._place.wait()
        while not await _to_its_end(self._begin):
            if self.spec.when_busy != WhenBusy.WHEN_BUSY_QUEUE:
                raise busy(self.spec.conversation, _BUSY)
            await asyncio.sleep(_POLL_SECONDS)

    async def _begin(self) -> bool:
        response, spec = self.response, self.spec
        new = turns.NewTurn(
            tenant=response.tenant,
            conversation=spec.conversation,
            response=response.name,
            subject=response.identity.subject,
            requested_model=spec.model,
            labels=spec.labels,
            question=list(spec.messages),
        )
        self._begun = await self._database.write(
            lambda session: turns.begin(session, new, self._owner, self._retention, time.time_ns(), self._history_bytes)
        )
        return self._begun is not None

    async def recall(self, request: GenerateRequest, call: Call) -> None:
        """Finds out how much of the history the target of a request can be told, once for each target.

        What is left out is told by a Notice.
        """
        assert self._begun is not None  # attempts come after `begin`
        key = request.target.provider, request.target.model
        if key in self._recalled:
            return
        recalled = self._recalled[key] = await self._recall.recall(self._begun.past, request, call)
        if recalled.left_out and recalled.left_out != self._told:
            self._told = recalled.left_out
            self.response.emit(_history_cut(recalled))

    def halve(self, target: Target) -> bool:
        """Leaves the older half out of what a target is told, once. Returns whether it did; a Notice tells it."""
        key = target.provider, target.model
        halved = None if key in self._halved else self._recalled[key].halved()
        if halved is None:
            return False
        self._halved.add(key)
        self._recalled[key] = halved
        self._told = halved.left_out
        self.response.emit(_history_cut(halved))
        return True

    def tokens(self, target: Target) -> int:
        """Returns the estimated tokens of what `recall` found for a target."""
        recalled = self._recalled.get((target.provider, target.model))
        return 0 if recalled is None else sum(group.tokens for group in recalled.groups)

    def tell(self, request: GenerateRequest) -> None:
        """Puts what `recall` found for its target before the messages of an attempt's request."""
        recalled = self._recalled[request.target.provider, request.target.model]
        own = list(request.messages)
        del request.messages[:]
        request.messages.extend(recalled.messages)
        request.messages.extend(own)

    async def end(self, state: "State", error: SluiceError | None, last: Iterable[Event]) -> Event | None:
        """Records how the answer ended, `last` being its events that nobody has seen yet, and gives the place up.

        Returns a notice if it could not be recorded. Whoever cancels meanwhile comes too late. Never raises.
        """
        try:
            if self._begun is not None:
                await _to_its_end(lambda: self._record(state, error, last))
        except SluiceError as failure:
            extra = {"conversation": self.spec.conversation, "reason": failure.reason_name}
            log.warning("a turn is not recorded", extra=extra)
            return _not_recorded(failure)
        except Exception:
            log.exception("a turn is not recorded", extra={"conversation": self.spec.conversation})
            return _not_recorded(SluiceError("an unexpected failure"))
        finally:
            self._place.leave()
        return None

    async def _record(self, state: "State", error: SluiceError | None, last: Iterable[Event]) -> None:
        begun = self._begun
        assert begun is not None
        try:
            async with asyncio.timeout(_RECORD_SECONDS):
                await self.response.settled()
                values = self._values(state, error, last)
                mine = await self._database.write(
                    lambda session: turns.end(session, begun, self._owner, values, time.time_ns())
                )
        except TimeoutError:
            raise DeadlineError("the turn was not recorded in time") from None
        if not mine:
            log.info("a turn is gone before its end", extra={"conversation": self.spec.conversation})

    def _values(self, state: "State", error: SluiceError | None, last: Iterable[Event]) -> dict[str, Any]:
        """Returns the columns of its end."""
        answer = self.response.answer(*last)
        message = answer.message.SerializeToString() if answer.message.parts else None
        values: dict[str, Any] = {
            "state": state.value,
            "answer": message,
            "answer_size": len(message or b""),
            "provider": answer.target.provider,
            "model": plain(answer.target.model),
            "error": to_status(error).SerializeToString() if error is not None else None,
        }
        if answer.passages or answer.citations:
            evidence = pb.Turn(passages=answer.passages, citations=answer.citations)
            values["evidence"] = evidence.SerializeToString()
        if answer.HasField("completed"):
            completed = answer.completed
            values |= {
                "input_tokens": completed.usage.input_tokens,
                "cached_input_tokens": completed.usage.cached_input_tokens,
                "output_tokens": completed.usage.output_tokens,
                "reasoning_tokens": completed.usage.reasoning_tokens,
                "usage_source": int(completed.usage.source),
                "cost_nano_usd": completed.cost_nano_usd if completed.HasField("cost_nano_usd") else None,
                "finish_reason": int(completed.finish_reason),
                "raw_finish_reason": plain(completed.raw_finish_reason),
            }
        return values


async def _to_its_end(work: Callable[[], Awaitable[T]]) -> T:
    """Does a work that must not be left half done; a cancellation waits for its end, and is then the outcome.

    The work is done in a thread that cannot be stopped, so what it did must be known before anything else is done.
    """
    task = asyncio.ensure_future(work())
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # retrieved: the cancellation is what counts
        try:
            raise cancelled
        finally:
            del cancelled  # it holds this frame
    return task.result()


def _history_cut(recalled: Recalled) -> Event:
    return Event(
        notice=Notice(
            code=NoticeCode.NOTICE_CODE_HISTORY_CUT,
            message=f"the model is not told all of the conversation: {recalled.left_out} older turns were left out",
            metadata={
                "turns_left_out": str(recalled.left_out),
                "turns_sent": str(recalled.turns),
                "budget": str(recalled.budget),
            },
        )
    )


def _not_recorded(failure: SluiceError) -> Event:
    return Event(
        notice=Notice(
            code=NoticeCode.NOTICE_CODE_TURN_NOT_RECORDED,
            message=f"the answer is not recorded in its conversation: {failure.message}",
            metadata={"reason": failure.reason_name},
        )
    )
