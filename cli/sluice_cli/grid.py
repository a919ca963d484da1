"""Tables that fit: on a narrow terminal the columns that matter least give way; in a pipe all of them stand."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sluice_cli import output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WRAPPED_WIDTH: Final = 24
"""A column that may be broken over lines has at least this many cells, if its text does."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    gives_way: int = 0
    """0: it always stands. Others are left out where they are empty or do not fit, the highest number first."""
    wraps: bool = False
    """Whether its text may be broken over lines."""
    right: bool = False
    """Whether it is aligned to the right."""
    styles: Mapping[str, str] = field(default_factory=dict)
    """How certain words in it look."""


def show(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Prints rows as a table on a terminal and as aligned columns in a pipe. `empty` is said where there are none."""
    if not rows or not sys.stdout.isatty():
        output.table([column.title for column in columns], rows, empty=empty)
        return
    console = output.console()
    console.print(fitted(columns, [output.cells(row) for row in rows], console))


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], console: "Console") -> "Table":
    """Returns the table with as many columns as the console has room for."""
    shown = [index for index, column in enumerate(columns) if not column.gives_way or any(row[index] for row in rows)]
    while True:
        grid = _grid(columns, rows, shown, fold=False)
        if console.measure(grid, options=console.options.update(width=10_000)).minimum <= console.width:
            return grid
        weakest = max(shown, key=lambda index: columns[index].gives_way)
        if not columns[weakest].gives_way:
            return _grid(columns, rows, shown, fold=True)
        shown.remove(weakest)


def _grid(columns: Sequence[Column], rows: Sequence[Sequence[str]], shown: Sequence[int], *, fold: bool) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for index in shown:
        column = columns[index]
        natural = max(len(column.title), *(len(row[index]) for row in rows)) if rows else len(column.title)
        grid.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not (fold or column.wraps),
            overflow="fold",
            min_width=min(natural, _WRAPPED_WIDTH) if column.wraps and not fold else None,
        )
    for row in rows:
        grid.add_row(*(Text(row[index], style=columns[index].styles.get(row[index], "")) for index in shown))
    return grid
