"""How an answer grows on a terminal and in a pipe."""

import io

import pytest
from rich.console import Console

from sluice_cli import output
from sluice_cli.flow import MarkdownFlow, PlainFlow, finished


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("one", ""),
        ("one\n\n", ""),
        ("one\n\ntwo", "one\n\n"),
        ("one\n\ntwo\n\nthree", "one\n\ntwo\n\n"),
        ("```\na\n\nb", ""),
        ("```\na\n\nb\n```\n\nend", "```\na\n\nb\n```\n\n"),
        ("````\n```\n\nx\n````\n\nend", "````\n```\n\nx\n````\n\n"),
        ("- a\n\n- b", ""),
        ("1. a\n\n   more\n\n2. b\n\nend", "1. a\n\n   more\n\n2. b\n\n"),
        ("1. a\n\n**bold**", "1. a\n\n"),
        ("text\n\n    code", ""),
        ("", ""),
    ],
)
def test_only_what_cannot_change_is_finished(text: str, done: str) -> None:
    assert text[: finished(text)] == done


def terminal() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=60, height=10, color_system=None), file


def test_markdown_is_printed_once_and_in_order() -> None:
    console, file = terminal()
    text = "# Title\n\nFirst paragraph.\n\n```python\nx = 1\n\ny = 2\n```\n\nLast *words*.\n"
    with MarkdownFlow(console) as flow:
        for start in range(0, len(text), 3):
            flow.feed(text[start : start + 3])
    screen = file.getvalue()
    final = screen.split("Title", 1)[1]
    positions = [final.rindex(word) for word in ("First paragraph.", "x = 1", "y = 2", "Last words.")]
    assert positions == sorted(positions)
    assert "```" not in final
    assert "\x1b[?25h" in screen, "the cursor comes back"


def test_an_answer_does_not_command_the_terminal() -> None:
    console, file = terminal()
    with MarkdownFlow(console) as flow:
        flow.feed("red: \x1b[31m, a title: \x1b]0;x\x07.\n\nThe end\x9b2J")
    screen = file.getvalue()
    assert "\x1b[31m" not in screen
    assert not {"\x1b]0", "\x07", "\x9b"} & {screen[at : at + size] for at in range(len(screen)) for size in (1, 3)}
    assert "red: \N{REPLACEMENT CHARACTER}[31m" in screen


def test_cells_and_remarks_do_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["name", "title"], [["a\nb", "\x1b[2Jé\t\x85"]], empty="")
    output.say("no model 'x\x1b[2J'\nwhat else")
    seen = capsys.readouterr()
    assert seen.out.splitlines()[1] == "a b   \N{REPLACEMENT CHARACTER}[2Jé \N{REPLACEMENT CHARACTER}"
    assert seen.err == "no model 'x\N{REPLACEMENT CHARACTER}[2J'\nwhat else\n"


def test_a_restart_on_a_terminal_draws_a_rule() -> None:
    console, file = terminal()
    with MarkdownFlow(console) as flow:
        flow.feed("void")
        flow.restart("kept ")
        flow.feed("text")
    final = file.getvalue().split("the answer starts over")[-1]
    assert "kept text" in final


def test_plain_text_ends_with_a_newline_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainFlow() as flow:
        flow.feed("a ")
        flow.feed("*b*")
    assert capsys.readouterr().out == "a *b*\n"
    with PlainFlow() as flow:
        flow.feed("void")
        flow.restart("kept\n")
    assert capsys.readouterr().out == "void\n--- the answer starts over ---\nkept\n"
    with PlainFlow():
        pass
    assert capsys.readouterr().out == ""
