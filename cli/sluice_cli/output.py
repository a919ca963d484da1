"""What commands print: tables for people, plain columns for pipes, JSON for programs."""

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.console import Console


_CONTROLS: Final = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}
_IN_A_CELL: Final = _CONTROLS | {ord("\n"): " ", ord("\t"): " "}


def harmless(text: str) -> str:
    """Returns a text of somebody else's as a terminal may be given it: without characters that command the terminal."""
    return text.translate(_CONTROLS)


def cells(row: Sequence[str]) -> list[str]:
    """Returns the cells of a table's row, each harmless and of one line."""
    return [cell.translate(_IN_A_CELL) for cell in row]


def as_json(message: "Message") -> dict[str, Any]:
    """Returns a message in the canonical JSON form of protobuf."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message)


def emit(value: Any) -> None:
    """Prints a value as one line of JSON, at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def abandon_stdout() -> None:
    """Lets what is still to be printed vanish: the pipe that it would go to is closed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def say(text: str) -> None:
    """Tells the person something that is not the command's output."""
    print(harmless(text), file=sys.stderr, flush=True)


def console(*, stderr: bool = False) -> "Console":
    """Returns rich's console on standard output or standard error."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=False)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Prints rows as a table on a terminal and as aligned columns in a pipe. `empty` is said where there are none."""
    if not rows:
        say(empty)
        return
    rows = [cells(row) for row in rows]
    if not sys.stdout.isatty():
        _columns(headers, rows)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(*headers, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    console().print(grid)


def _columns(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [[header.upper() for header in headers], *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(headers))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def enum_word(name: str, prefix: str) -> str:
    """Returns an enum value for people: `TASK_STATE_RUNNING` without `TASK_STATE_` is `running`."""
    return name.removeprefix(prefix).replace("_", " ").lower()


def when(moment: "Timestamp") -> str:
    """Returns a point in time for people, in local time; empty where it is unset."""
    if not moment.seconds:
        return ""
    from datetime import UTC

    return moment.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
