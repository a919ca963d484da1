"""What a model is told of a conversation: the cut, and what is left out of what is kept."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sluice.chat.v1.message_pb2 import Message, MessageRole, Part, Reasoning, ToolCall, ToolResult
from sluice_gateway.conversations.history import PastTurn, cut, estimate, groups, is_bound

from .talking import text_of

USER, ASSISTANT, TOOL = (
    MessageRole.MESSAGE_ROLE_USER,
    MessageRole.MESSAGE_ROLE_ASSISTANT,
    MessageRole.MESSAGE_ROLE_TOOL,
)


def said(text: str) -> Message:
    return Message(role=USER, parts=[Part(text=text)])


def answered(text: str = "", calls: tuple[str, ...] = (), sealed: str = "") -> Message:
    parts = [Part(reasoning=Reasoning(text="why", provider=sealed, state=b"sealed"))] if sealed else []
    parts += [Part(text=text)] if text else []
    parts += [Part(tool_call=ToolCall(id=call, name="look", arguments_json="{}")) for call in calls]
    return Message(role=ASSISTANT, parts=parts)


def brought(*calls: str) -> Message:
    return Message(role=TOOL, parts=[Part(tool_result=ToolResult(call_id=call, text="seen")) for call in calls])


def turn(number: int, question: Message | tuple[Message, ...], answer: Message) -> PastTurn:
    return PastTurn(number, question if isinstance(question, tuple) else (question,), answer)


def told(turns: list[PastTurn], request: list[Message], provider: str = "p") -> list[list[str]]:
    return [[text_of(message) for message in group.messages] for group in groups(turns, request, provider)]


sizes = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 6)), max_size=30)


@given(sizes, st.integers(-10, 400), st.integers(-2, 60), st.booleans())
def test_the_cut_leaves_out_the_oldest_and_no_more_than_it_must(
    groups_: list[tuple[int, int]], budget: int, room: int, bound: bool
) -> None:
    tokens, counts = [one[0] for one in groups_], [one[1] for one in groups_]
    start = cut(tokens, counts, budget, room, bound=bound)
    assert 0 <= start <= len(tokens)
    bound = bound and bool(tokens)

    def fits(first: int) -> bool:
        return sum(tokens[first:]) <= budget and sum(counts[first:]) <= room

    if bound:
        assert start < len(tokens), "what the request belongs to stays"
    if start < len(tokens) and not (bound and start == len(tokens) - 1):
        assert fits(start)
    if start > 0:
        assert not fits(start - 1), "one more would have fitted"


@st.composite
def dialogues(draw: Any) -> tuple[list[PastTurn], list[Message]]:
    """Draws turns of any kind, as failures and deletions may leave them, and the request that follows."""
    turns: list[PastTurn] = []
    open_: list[str] = []
    count = 0

    def question() -> Message:
        known = draw(st.sampled_from(["none", "all", "some", "foreign"]))
        if known == "all" and open_:
            return brought(*open_)
        if known == "some" and open_:
            return brought(open_[0])
        if known == "foreign":
            return brought("nobody-asked")
        return said(f"q{draw(st.integers(0, 9))}")

    for number in range(draw(st.integers(0, 8))):
        asked = question()
        calls = tuple(f"c{count + index}" for index in range(draw(st.integers(0, 2))))
        count += len(calls)
        text = draw(st.sampled_from(["", "fine"]))
        sealed = draw(st.sampled_from(["", "p", "other"]))
        turns.append(turn(number + 1, asked, answered(text or ("" if calls else "so"), calls, sealed)))
        open_ = list(calls)
    return turns, [question()]


@given(dialogues(), st.integers(0, 200))
def test_whatever_is_kept_can_be_read_by_a_vendor(drawn: tuple[list[PastTurn], list[Message]], budget: int) -> None:
    """Wherever the cut falls: each result follows its call, each call is answered, and no turn is torn apart."""
    turns, request = drawn
    found = groups(turns, request, "p")
    bound = is_bound(turns, request)
    start = cut([group.tokens for group in found], [len(group.messages) for group in found], budget, 1000, bound=bound)
    kept = [message for group in found[start:] for message in group.messages]
    asked: set[str] = set()
    for message in kept:
        calls = {part.tool_call.id for part in message.parts if part.WhichOneof("kind") == "tool_call"}
        results = {part.tool_result.call_id for part in message.parts if part.WhichOneof("kind") == "tool_result"}
        assert message.parts
        if message.role == TOOL:
            assert results
            assert results == asked
            asked = set()
        else:
            assert not asked, "a call without its result"
            asked = calls
        for part in message.parts:
            if part.WhichOneof("kind") == "reasoning":
                assert part.reasoning.provider == "p"
    if asked:
        assert asked <= {part.tool_result.call_id for message in request for part in message.parts}
    assert sum(group.turns for group in found) <= len(turns)
    assert all(group.tokens == estimate(group.messages) for group in found)


def test_calls_and_their_results_are_one_group() -> None:
    turns = [
        turn(1, said("one"), answered("1")),
        turn(2, said("two"), answered("let me look", ("a", "b"))),
        turn(3, brought("a", "b"), answered("", ("c",))),
        turn(4, brought("c"), answered("2")),
        turn(5, said("three"), answered("3")),
    ]
    assert told(turns, [said("four")]) == [
        ["one", "1"],
        ["two", "let me look call a call b", "result a result b", "call c", "result c", "2"],
        ["three", "3"],
    ]


def test_results_in_the_request_keep_what_asked_for_them() -> None:
    turns = [turn(1, said("one"), answered("1")), turn(2, said("two"), answered("", ("a",)))]
    assert is_bound(turns, [brought("a")])
    assert not is_bound(turns, [said("never mind")])
    assert told(turns, [brought("a")])[-1] == ["two", "call a"]
    assert cut([5, 5], [2, 2], 0, 10, bound=True) == 1


def test_calls_that_nobody_answered_are_not_told() -> None:
    turns = [turn(1, said("one"), answered("let me look", ("a",), "p")), turn(2, said("never mind"), answered("ok"))]
    assert told(turns, [said("next")]) == [["one", "let me look"], ["never mind", "ok"]]
    assert told(turns[:1], [said("next")]) == [["one", "let me look"]]


def test_results_whose_calls_are_gone_are_not_told() -> None:
    turns = [turn(3, brought("a"), answered("2")), turn(4, said("three"), answered("3"))]
    assert told(turns, [said("next")]) == [["2"], ["three", "3"]]


def test_reasoning_goes_back_to_its_provider_alone() -> None:
    turns = [turn(1, said("one"), answered("1", sealed="p"))]
    assert told(turns, [said("next")], "p") == [["one", "(why) 1"]]
    assert told(turns, [said("next")], "other") == [["one", "1"]]
    [group] = groups(turns, [said("next")], "p")
    assert group.messages[1].parts[0].reasoning.state == b"sealed"
