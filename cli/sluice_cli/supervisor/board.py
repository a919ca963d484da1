"""What `sluice up` shows: a live table on a terminal, lines in a pipe, JSON for programs."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from sluice_cli import output
from sluice_cli.supervisor.child import Child, State

if TYPE_CHECKING:
    from rich.table import Table

_STYLES: Final[Mapping[State, str]] = {
    State.UP: "green",
    State.STARTING: "yellow",
    State.NOT_SERVING: "yellow",
    State.CRASHED: "red",
    State.MISCONFIGURED: "red",
    State.STOPPING: "yellow",
}
_ORDER: Final = ("gateway", "retrieval", "provider")


class Board(Protocol):
    """Where the supervisor reports to."""

    def changed(self, child: Child) -> None:
        """Shows the new state of a process."""

    def message(self, text: str) -> None:
        """Says something about the whole mesh."""

    def ready(self, address: str) -> None:
        """Says that the mesh is up."""

    def log_line(self, name: str, line: str) -> None:
        """Shows a line of a service's log."""

    def close(self) -> None:
        """Leaves the terminal as it should be."""


def note(child: Child) -> str:
    """Returns what a person should know of a process: what is missing, why it crashed."""
    if child.status.state in (State.STOPPING, State.STOPPED):
        return ""
    parts = [f"missing: {', '.join(child.status.missing)}"] if child.status.missing else []
    if child.status.detail and not (child.status.missing and child.status.state == State.UP):
        parts.append(child.status.detail)
    if child.status.restarts and child.status.state == State.UP:
        parts.append(f"restarted {child.status.restarts}×")
    return "; ".join(parts)


def where(child: Child) -> str:
    """Returns the address of a process, Unix sockets by the file's name."""
    address = child.spec.address
    return f"…/{Path(address).name}" if address.startswith("unix:") else address


class LiveBoard:
    """A table that is drawn again when something changes."""

    def __init__(self, elsewhere: Mapping[str, str]) -> None:
        from rich.live import Live

        self._children: Sequence[Child] = ()
        self._elsewhere = elsewhere
        self._footer = "starting…"
        self._logs = ""
        self._console = output.console(stderr=True)
        self._live = Live(console=self._console, auto_refresh=False)
        self._live.start()

    def begin(self, children: Sequence[Child]) -> None:
        """Shows the processes: the door first, then what is behind it."""
        self._children = sorted(children, key=lambda child: (_ORDER.index(child.spec.kind), child.name))
        self._logs = ", ".join(sorted({str(child.log.path.parent) for child in children}))
        self._draw()

    def changed(self, child: Child) -> None:
        self._draw()

    def message(self, text: str) -> None:
        self._footer = text
        self._draw()

    def ready(self, address: str) -> None:
        self.message(f'ready at {address}. Try: sluice ask "hello" · sluice index . · sluice status. Ctrl-C stops.')

    def log_line(self, name: str, line: str) -> None:
        from rich.text import Text

        self._console.print(Text.assemble((f"{name} ", "dim"), line), soft_wrap=True)

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> None:
        self._live.update(self._table(), refresh=True)

    def _table(self) -> "Table":
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=box.SIMPLE_HEAD,
            header_style="bold",
            pad_edge=False,
            caption=Text.assemble((f"logs in {self._logs}\n", "dim"), self._footer),
            caption_justify="left",
        )
        for header in ("service", "state", "where", "pid", "note", "log"):
            table.add_column(header, overflow="fold" if header in ("note", "log") else "ellipsis")
        for child in self._children:
            state = child.status.state
            table.add_row(
                child.name,
                Text(state, style=_STYLES.get(state, "dim")),
                where(child),
                str(child.status.pid or ""),
                Text(note(child)),
                Text(child.log.path.name, style="dim"),
            )
        for name, place in sorted(self._elsewhere.items()):
            table.add_row(name, Text("elsewhere", style="dim"), place, "", "", "")
        return table


class LineBoard:
    """One line for each change, on standard error."""

    def __init__(self, elsewhere: Mapping[str, str]) -> None:
        for name, place in elsewhere.items():
            output.say(f"{name:12} elsewhere      {place}")

    def begin(self, children: Sequence[Child]) -> None:
        """Says where the logs are."""
        for folder in {child.log.path.parent for child in children}:
            output.say(f"logs in {folder}")

    def changed(self, child: Child) -> None:
        pid = f"pid {child.status.pid}" if child.status.pid else ""
        line = f"{child.name:12} {child.status.state:14} {where(child):28} {pid:12} {note(child)}"
        output.say(line.rstrip())

    def message(self, text: str) -> None:
        output.say(text)

    def ready(self, address: str) -> None:
        output.say(f"ready at {address}")

    def log_line(self, name: str, line: str) -> None:
        output.say(f"{name} | {line}")

    def close(self) -> None:
        pass


class JsonBoard:
    """One line of JSON for each change, on standard output."""

    def __init__(self, elsewhere: Mapping[str, str]) -> None:
        self._elsewhere = elsewhere

    def begin(self, children: Sequence[Child]) -> None:
        """Names what runs elsewhere."""
        for name, place in self._elsewhere.items():
            output.emit({"service": name, "state": "elsewhere", "address": place})

    def changed(self, child: Child) -> None:
        status = child.status
        output.emit(
            {
                "service": child.name,
                "kind": child.spec.kind,
                "state": status.state,
                "address": child.spec.address,
                "pid": status.pid,
                "restarts": status.restarts,
                "missing": status.missing,
                "detail": status.detail,
                "log": str(child.log.path),
            }
        )

    def message(self, text: str) -> None:
        output.emit({"message": text})

    def ready(self, address: str) -> None:
        output.emit({"ready": True, "address": address})

    def log_line(self, name: str, line: str) -> None:
        output.emit({"service": name, "line": line})

    def close(self) -> None:
        pass


def make_board(elsewhere: Mapping[str, str], *, as_json: bool) -> LiveBoard | LineBoard | JsonBoard:
    """Returns the board that fits where the output goes."""
    if as_json:
        return JsonBoard(elsewhere)
    return LiveBoard(elsewhere) if sys.stderr.isatty() else LineBoard(elsewhere)
