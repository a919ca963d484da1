"""The log of a response: however it is read, the same events come out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.chat.v1.event_pb2 import Event, TextDelta
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1.chat_service_pb2 import ResumeChatResponse, StreamChatResponse
from sluice_gateway.responses import log as logs
from sluice_gateway.responses.log import ResponseLog, pack
from sluice_kit.errors import SluiceError


def events(start: int, count: int, size: int = 1) -> list[Event]:
    return [Event(text_delta=TextDelta(text=f"{number}," + "x" * size)) for number in range(start, start + count)]


def read_all(log: ResponseLog, after: int) -> list[Event]:
    seen: list[Event] = []
    while (chunk := log.read(after)) is not None:
        message, last, size = chunk
        batch = StreamChatResponse.FromString(message)
        assert batch == StreamChatResponse.FromString(ResumeChatResponse.FromString(message).SerializeToString())
        assert batch.first_sequence == after + 1
        assert len(batch.events) == last - after
        assert size > 0
        seen.extend(batch.events)
        after = last
    return seen


@given(
    batches=st.lists(st.integers(1, 5), min_size=1, max_size=200),
    size=st.sampled_from([1, 50, 9000]),
    after=st.integers(0, 800),
    closed=st.booleans(),
)
def test_every_reader_sees_the_same_events(batches: list[int], size: int, after: int, closed: bool) -> None:
    log = ResponseLog(1 << 30)
    written: list[Event] = []
    for count in batches:
        more = events(len(written) + 1, count, size)
        written += more
        log.append(len(more), pack(more))
    if closed:
        log.close()
    assert log.last_sequence == len(written)
    assert log.size == sum(len(batch.body) for batch in log.batches())
    assert read_all(log, min(after, len(written))) == written[after:]


@given(
    batches=st.lists(st.integers(1, 4), min_size=1, max_size=200),
    limit=st.integers(1, 4000),
    after=st.integers(0, 800),
)
def test_what_is_kept_is_whole_and_what_is_not_is_said(batches: list[int], limit: int, after: int) -> None:
    log = ResponseLog(limit)
    written: list[Event] = []
    evicted: list[Event] = []
    for count in batches:
        more = events(len(written) + 1, count)
        written += more
        log.append(len(more), pack(more))
        for batch in log.trim(log.last_sequence + 1):
            evicted += logs.unpack(batch)
    kept = written[log.first_sequence - 1 :]
    assert evicted + kept == written
    assert log.size <= limit or len(log.batches()) == 1
    after = min(after, len(written))
    if after + 1 < log.first_sequence:
        with pytest.raises(SluiceError) as caught:
            log.read(after)
        assert caught.value.reason == ErrorReason.ERROR_REASON_RESUME_WINDOW_EXPIRED
        assert caught.value.metadata["first_sequence"] == str(log.first_sequence)
    else:
        assert read_all(log, after) == written[after:]


def test_what_a_watcher_has_yet_to_be_sent_is_not_forgotten() -> None:
    log = ResponseLog(10)
    for number in range(1, 9):
        log.append(1, pack(events(number, 1)))
    assert [batch.first for batch in log.trim(needed=4)] == [1, 2, 3]
    assert read_all(log, 3) == events(4, 5)
    log.trim(needed=9)
    assert log.first_sequence == 8
    log.clear()
    assert log.read(8) is None
    with pytest.raises(SluiceError) as caught:
        log.read(7)
    assert caught.value.reason == ErrorReason.ERROR_REASON_RESUME_WINDOW_EXPIRED


@given(st.integers(1, 1 << 62))
def test_the_frame_is_what_protobuf_would_write(sequence: int) -> None:
    batch = events(1, 2)
    expected = StreamChatResponse(first_sequence=sequence, events=batch).SerializeToString()
    assert logs.frame(sequence, pack(batch)) == expected


def test_a_lagging_reader_gets_joined_batches_of_bounded_size() -> None:
    log = ResponseLog(1 << 30)
    for number in range(1, 201):
        log.append(1, pack(events(number, 1, 2000)))
    first = log.read(0)
    assert first is not None
    assert first[1] > 1
    assert len(first[0]) <= logs.MAX_MESSAGE_BYTES + 16


def test_many_small_batches_are_kept_as_few() -> None:
    log = ResponseLog(1 << 30)
    for number in range(1, 10_001):
        log.append(1, pack(events(number, 1)))
    # Those that watchers are about to be sent are as they came.
    assert [batch.length for batch in log.batches()[-32:]] == [1] * 32
    assert len(log.batches()) < 10_000 / 32 + 64
    log.close()
    assert len(log.batches()) < 10_000 / 32 + 2
    assert max(len(batch.body) for batch in log.batches()) <= 16 * 1024
    assert [event.text_delta.text for event in read_all(log, 9_990)] == [
        f"{number},x" for number in range(9_991, 10_001)
    ]
