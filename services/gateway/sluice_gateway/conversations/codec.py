"""Between rows and the messages of the contract."""

import json
from collections.abc import Iterable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from sluice.chat.v1.message_pb2 import Message
from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.usage_pb2 import Usage
from sluice.gateway.v1 import conversation_service_pb2 as pb
from sluice_gateway.conversations.models import CANCELLED, COMPLETED, FAILED, RUNNING, ConversationRow, TurnRow

_STATES: Mapping[str, "pb.TurnState.ValueType"] = {
    RUNNING: pb.TURN_STATE_RUNNING,
    COMPLETED: pb.TURN_STATE_COMPLETED,
    FAILED: pb.TURN_STATE_FAILED,
    CANCELLED: pb.TURN_STATE_CANCELLED,
}


def plain(text: str) -> str:
    """Returns a text as every database takes it: Postgres has no NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def labels_text(labels: Mapping[str, str]) -> str:
    """Returns labels as rows hold them."""
    return json.dumps(dict(labels), sort_keys=True)


def pack_question(messages: Iterable[Message]) -> bytes:
    """Returns the messages of a question as rows hold them."""
    return pb.Turn(question=messages).SerializeToString()


def unpack_question(stored: bytes) -> list[Message]:
    """Returns the messages of a question."""
    return list(pb.Turn.FromString(stored).question)


def conversation_message(row: ConversationRow, turns: int) -> pb.Conversation:
    """Returns a conversation as callers see it."""
    conversation = pb.Conversation(
        name=f"conversations/{row.conversation_id}",
        display_name=row.display_name,
        labels=json.loads(row.labels),
        turn_count=turns,
        create_time=_time(row.create_ns),
        update_time=_time(row.update_ns),
    )
    if row.max_age_ns is not None:
        conversation.retention.max_age.FromNanoseconds(row.max_age_ns)
    if row.max_turns is not None:
        conversation.retention.max_turns = row.max_turns
    return conversation


def turn_message(row: TurnRow, conversation: str) -> pb.Turn:
    """Returns a turn as callers see it; `conversation` is the resource name it belongs to."""
    turn = pb.Turn(
        name=f"{conversation}/turns/{row.number}",
        number=row.number,
        state=_STATES[row.state],
        requested_model=row.requested_model,
        response=row.response,
        subject=row.subject,
        labels=json.loads(row.labels),
        create_time=_time(row.create_ns),
    )
    turn.MergeFromString(row.question)
    if row.evidence is not None:
        turn.MergeFromString(row.evidence)
    if row.answer is not None:
        turn.answer.MergeFromString(row.answer)
    if row.provider:
        turn.target.CopyFrom(Target(provider=row.provider, model=row.model))
    if row.error is not None:
        turn.error.CopyFrom(Status.FromString(row.error))
    if row.end_ns is not None:
        turn.end_time.CopyFrom(_time(row.end_ns))
    if row.state == COMPLETED:
        turn.usage.CopyFrom(
            Usage(
                input_tokens=row.input_tokens,
                cached_input_tokens=row.cached_input_tokens,
                output_tokens=row.output_tokens,
                reasoning_tokens=row.reasoning_tokens,
            )
        )
        # Kept as numbers, so that a value of a newer program is passed on as it is.
        turn.usage.source = row.usage_source  # type: ignore[assignment]  # any number is a value of an open enum
        turn.finish_reason = row.finish_reason  # type: ignore[assignment]  # any number is a value of an open enum
        turn.raw_finish_reason = row.raw_finish_reason
        if row.cost_nano_usd is not None:
            turn.cost_nano_usd = row.cost_nano_usd
    return turn


def _time(nanoseconds: int) -> Timestamp:
    time = Timestamp()
    time.FromNanoseconds(nanoseconds)
    return time
