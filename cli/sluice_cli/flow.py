"""How an answer appears while it streams: plain text in a pipe, Markdown that grows on a terminal."""

import re
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from sluice_cli import output

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_FENCE: Final = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)
_REFRESH_PER_SECOND: Final = 12


class Flow(Protocol):
    """Where the text of an answer goes."""

    def feed(self, text: str) -> None:
        """Shows more text."""

    def restart(self, text: str) -> None:
        """Starts over: what was shown is void, `text` stands instead."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class PlainFlow:
    """The text as it comes, on standard output."""

    def __init__(self) -> None:
        self._last = "\n"

    def feed(self, text: str) -> None:
        """Writes the text at once."""
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
            self._last = text[-1]

    def restart(self, text: str) -> None:
        """Cannot unwrite, so it draws a line between."""
        self.feed(("" if self._last == "\n" else "\n") + "--- the answer starts over ---\n" + text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._last != "\n":
            self.feed("\n")


class MarkdownFlow:
    """Markdown on a terminal.

    Blocks that are complete are printed once and for all; only the block that still grows is drawn again and again, so
    an answer longer than the screen scrolls like any other output.
    """

    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        self._console = console
        self._text = ""
        self._live: Live = Live(
            console=console, refresh_per_second=_REFRESH_PER_SECOND, transient=True, get_renderable=self._tail
        )

    def feed(self, text: str) -> None:
        """Shows more text."""
        self._text += output.harmless(text)
        end = finished(self._text)
        if end:
            from rich.markdown import Markdown

            block, self._text = self._text[:end], self._text[end:]
            self._console.print(Markdown(block.strip("\n")))
            self._console.print()

    def restart(self, text: str) -> None:
        """Draws a rule: what stands above it is void."""
        self._text = ""
        self._console.rule("the answer starts over", style="yellow")
        self.feed(text)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from rich.markdown import Markdown

        text, self._text = self._text, ""
        self._live.stop()
        if text.strip():
            self._console.print(Markdown(text))

    def _tail(self) -> "_Tail":
        return _Tail(self._text)


class _Tail:
    """The last lines of a growing block, as many as fit on the screen."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.markdown import Markdown
        from rich.segment import Segment

        lines = console.render_lines(Markdown(self._text), options, pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from line
            yield Segment.line()


def finished(text: str) -> int:
    """Returns the length of the part at the start that later text cannot change: up to the last blank line that is
    outside of a fenced block and not followed by a line that goes on with a list or an indented block."""
    fence: str | None = None
    end = at = 0
    blank = False
    for line in text.splitlines(keepends=True):
        if fence is None and blank and line.strip() and not _goes_on(line):
            end = at
        mark = _FENCE.match(line)
        if mark is not None:
            if fence is None:
                fence = mark[1]
            elif mark[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
        blank = fence is None and not line.strip()
        at += len(line)
    return end


def _goes_on(line: str) -> bool:
    """Whether a line after a blank one may belong to the block before: list items and what is indented under them."""
    return line[0] in " \t" or re.match(r"([-*+]|\d{1,9}[.)])(\s|\Z)", line) is not None or line.strip() in "-*+"
