"""Single calls, pages, tasks, and the fold of an answer."""

import asyncio
from pathlib import Path

import pytest

from sluice.chat.v1 import event_pb2, message_pb2, target_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as chat_pb
from sluice.task.v1 import task_service_pb2 as task_pb
from sluice_client import Fold, RetryPolicy, SluiceClient, StreamProtocolError, question, repository
from sluice_kit.auth import KeyAuthenticator
from sluice_kit.errors import AuthenticationError, InvalidRequestError, UnavailableError, make_error

from .fake import RESPONSE, FakeChat, FakeTasks, accepted, citation, completed, script, serving, text

QUICK = RetryPolicy(initial=0.01, maximum=0.05, patience=60.0)


async def test_chat_is_made_again_with_the_same_id_when_its_connection_broke() -> None:
    chat = FakeChat()
    gate = chat.gates[0] = asyncio.Event()
    async with serving(chat) as line, SluiceClient(line.address, retry=QUICK) as client:
        asking = asyncio.create_task(client.chat(question("why?")))
        await chat.waiting.wait()
        line.cut()
        gate.set()
        assert (await asking).text == "whole"
    assert len(chat.whole) == 2
    assert chat.whole[0] == chat.whole[1]
    assert chat.whole[0].request_id


async def test_a_decided_failure_is_raised_at_once() -> None:
    chat = FakeChat()
    chat.fail_whole = [make_error(ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE, "the vendor is down")]
    async with serving(chat) as line, SluiceClient(line.address, retry=QUICK) as client:
        with pytest.raises(UnavailableError, match="vendor is down"):
            await client.chat(question("why?"))
    assert len(chat.whole) == 1


async def test_a_request_that_breaks_a_rule_names_the_field() -> None:
    async with serving(FakeChat()) as line, SluiceClient(line.address) as client:
        with pytest.raises(InvalidRequestError) as caught:
            await client.cancel_chat("nonsense")
    assert [violation.field for violation in caught.value.violations] == ["response"]


async def test_a_missing_key_is_an_authentication_error() -> None:
    async with serving(FakeChat(), authenticator=KeyAuthenticator({})) as line, SluiceClient(line.address) as client:
        with pytest.raises(AuthenticationError):
            await client.get_response(RESPONSE)


async def test_a_client_can_be_opened_again() -> None:
    chat = FakeChat(script("a"))
    async with serving(chat) as line:
        client = SluiceClient(line.address, retry=QUICK)
        for _ in range(2):
            async with client:
                assert await client.stream_chat(question("why?")).text() == "a"


async def test_lists_are_read_page_by_page() -> None:
    tasks = FakeTasks()
    async with serving(tasks) as line, SluiceClient(line.address) as client:
        pager = client.list_tasks()
        names = [task.name async for task in pager]
        assert names == [f"tasks/ret-{page}{index}" for page in range(3) for index in range(2)]
        assert tasks.listed == ["", "1", "2"]
        async for page in pager.pages():
            assert page.unreachable == ["wf"]
            break
        assert len(await pager.all()) == 6


async def test_watching_goes_on_after_a_cut() -> None:
    tasks = FakeTasks()
    gate = tasks.gates[3] = asyncio.Event()
    async with serving(tasks) as line, SluiceClient(line.address, retry=QUICK) as client:
        async with client.watch_task("tasks/ret-1") as watch:
            first = [(await anext(watch)).sequence for _ in range(2)]
            await tasks.waiting.wait()
            line.cut()
            gate.set()
            rest = [item.sequence async for item in watch]
        assert first + rest == [1, 2, 3, 4, 5]
        assert tasks.watched == [0, 2]


async def test_watching_may_start_at_the_oldest_event_kept() -> None:
    tasks = FakeTasks()
    tasks.oldest = 4
    async with serving(tasks) as line, SluiceClient(line.address, retry=QUICK) as client:
        task = await client.watch_task("tasks/ret-1").result()
        assert task.state == task_pb.TASK_STATE_SUCCEEDED
        with pytest.raises(StreamProtocolError, match="expected event 3, but 4"):
            await client.watch_task("tasks/ret-1", after_sequence=2).result()


def fold_of(*events: event_pb2.Event) -> Fold:
    fold = Fold()
    for sequence, event in enumerate(events, 1):
        fold.add(sequence, event)
    return fold


def test_fold_joins_blocks_that_interleave() -> None:
    fold = fold_of(accepted(), text("A", 0), text("C", 2), text("B", 0), text("D", 2), completed())
    assert fold.text() == "ABCD"
    answer = fold.answer()
    assert answer.response == RESPONSE
    assert [part.text for part in answer.message.parts] == ["AB", "CD"]
    assert answer.message.role == message_pb2.MESSAGE_ROLE_ASSISTANT
    assert answer.HasField("completed")


def test_fold_rebuilds_reasoning_and_parallel_tool_calls() -> None:
    target = target_pb2.Target(provider="p", model="m")
    start = event_pb2.Event(accepted=event_pb2.Accepted(response=RESPONSE, targets=[target]))

    def call(block: int, piece: str, identity: str = "", name: str = "") -> event_pb2.Event:
        delta = event_pb2.ToolCallDelta(block_index=block, id=identity, name=name, arguments_json=piece)
        return event_pb2.Event(tool_call_delta=delta)

    think = event_pb2.Event(reasoning_delta=event_pb2.ReasoningDelta(block_index=0, text="hm", state=b"s"))
    fold = fold_of(start, think, call(1, '{"a"', "c1", "f"), call(2, "{}", "c2", "g"), call(1, ": 1}"), completed())
    parts = fold.answer().message.parts
    assert (parts[0].reasoning.text, parts[0].reasoning.state, parts[0].reasoning.provider) == ("hm", b"s", "p")
    assert (parts[1].tool_call.id, parts[1].tool_call.name, parts[1].tool_call.arguments_json) == (
        "c1",
        "f",
        '{"a": 1}',
    )
    assert parts[2].tool_call.name == "g"


def test_fold_drops_what_a_restart_voids() -> None:
    restarted = event_pb2.Event(restarted=event_pb2.Restarted(attempt_id="2", discard_from=3))
    fold = fold_of(
        accepted(), text("keep "), text("drop"), citation("gone.py"), restarted, text("new"), citation("x.py")
    )
    assert fold.text() == "keep new"
    assert [one.path for one in fold.citations()] == ["x.py"]


def test_fold_names_the_target_that_answered() -> None:
    change = event_pb2.RouteChanged(target=target_pb2.Target(provider="b", model="m2"))
    assert fold_of(accepted(), event_pb2.Event(route_changed=change)).answer().target.provider == "b"


def test_question_takes_short_names_of_corpora() -> None:
    spec = question("q", model="fast", system="be brief", corpora=["docs", "corpora/code"], top_k=3, exclude=["*.md"])
    assert list(spec.grounding.corpora) == ["corpora/docs", "corpora/code"]
    assert spec.grounding.top_k == 3
    assert list(spec.grounding.filters.exclude) == ["*.md"]
    assert spec.system_instruction == "be brief"
    assert not question("q").HasField("grounding")


def test_question_takes_a_repository_and_how_it_is_grounded() -> None:
    named = repository("https://h/a/b", revision="v1", credential="work", include=["src/"], max_age=0.5)
    spec = question("q", repository=named, query="w", token_budget=9, best_effort=True, language="de", top_k=2)
    assert spec.grounding.repository == named
    assert not spec.grounding.corpora
    assert (spec.grounding.query, spec.grounding.token_budget, spec.grounding.top_k) == ("w", 9, 2)
    assert spec.grounding.policy == chat_pb.GROUNDING_POLICY_BEST_EFFORT
    assert spec.answer_language == "de"
    assert (named.source.git.url, named.source.git.revision, named.source.git.credential) == (
        "https://h/a/b",
        "v1",
        "work",
    )
    assert named.max_age.ToMilliseconds() == 500
    assert list(named.files.include) == ["src/"]
    here = repository(".")
    assert here.source.local.path == str(Path.cwd())
    assert not here.HasField("max_age")
    assert not here.HasField("files")
