"""`sluice status --watch`: shows each change until it is interrupted."""

import asyncio
import contextlib
import math
import sys
from collections.abc import AsyncIterator, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from sluice_cli import grid, output, status
from sluice_cli.status import Part
from sluice_kit.errors import SluiceError, UnavailableError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sluice_client import SluiceClient

_RETRIEVAL_SECONDS: Final = 2.0
"""Pause between two looks at the retrieval service, which tells no changes by itself."""
_DRAWN_PER_SECOND: Final = 4
_DRAINING: Final = "DRAINING"


class View(Protocol):
    """Where changes go."""

    def show(self, kind: str, part: Part, said: dict[str, Any]) -> None:
        """Shows how a part is. `kind` is gateway, retrieval or integration; `said` is the part for programs."""

    def forget(self) -> None:
        """What was shown of integrations is not known any more."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


async def follow(client: "SluiceClient", address: str, *, as_json: bool) -> None:
    """Shows how each part is, then each change, without an end. A gateway that goes away is waited for.

    Raises UnavailableError if the gateway does not answer at the start.
    """
    retrieval = await status.retrieval_as_json(client)
    view: View = _Table() if sys.stdout.isatty() and not as_json else _Lines(as_json=as_json)
    with view:
        gateway = _Gateway(view, address)
        view.show("retrieval", status.retrieval_part(retrieval), retrieval)
        async with _beside(_follow_retrieval(client, view, gateway)):
            watching = client.watch_integration_health(patience=math.inf, on_break=gateway.lost)
            async with watching as watch:
                async for one in watch:
                    gateway.back()
                    view.show("integration", status.part(one), output.as_json(one))


class _Gateway:
    """Whether the gateway answers, as the view was told."""

    def __init__(self, view: View, address: str) -> None:
        self._view = view
        self._address = address
        self._answers = False
        self.back()

    def back(self) -> None:
        """Notes that it answers."""
        if not self._answers:
            self._answers = True
            said = status.gateway_as_json(self._address)
            self._view.show("gateway", status.gateway(self._address), said)

    def lost(self, failure: SluiceError) -> None:
        """Notes that it does not."""
        if self._answers:
            self._answers = False
            self._view.forget()
            detail = f"waiting for it: {failure.message}"
            said = status.gateway_as_json(self._address, "unreachable") | {"detail": detail}
            self._view.show("gateway", status.gateway(self._address, "unreachable", detail), said)


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs `work` for the length of the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _follow_retrieval(client: "SluiceClient", view: View, gateway: _Gateway) -> None:
    while True:
        await asyncio.sleep(_RETRIEVAL_SECONDS)
        try:
            said = await status.retrieval_as_json(client)
        except UnavailableError:
            continue  # the gateway is away; the watch says so
        if said.get("reason") == _DRAINING:
            continue  # one of the two shuts down: the next look tells which
        if said["state"] != "unknown":
            gateway.back()
        view.show("retrieval", status.retrieval_part(said), said)


class _Lines:
    """A line for each change, on standard output: for pipes and, as JSON, for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._shown: dict[tuple[str, str], Part] = {}

    def show(self, kind: str, part: Part, said: dict[str, Any]) -> None:
        from datetime import UTC, datetime

        # Another latency is no change; nor is what comes again after a break of the connection.
        essence = part._replace(latency="")
        if self._shown.get((kind, part.name)) == essence:
            return
        self._shown[kind, part.name] = essence
        now = datetime.now(UTC)
        if self._as_json:
            output.emit({"time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"), kind: said})
            return
        when = now.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        more = "; ".join(filter(None, (part.detail, part.version)))
        print(f"{when}  {part.name:12}  {part.state:13}  {more}".rstrip(), flush=True)

    def forget(self) -> None:
        pass  # a line that was printed stays

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass


class _Table:
    """A table on a terminal that is drawn again and again."""

    def __init__(self) -> None:
        from rich.live import Live

        self._console = output.console()
        self._rows: dict[tuple[str, str], Part] = {}
        self._live = Live(console=self._console, refresh_per_second=_DRAWN_PER_SECOND, get_renderable=self._drawn)

    def show(self, kind: str, part: Part, said: dict[str, Any]) -> None:
        self._rows[kind, part.name] = part

    def forget(self) -> None:
        self._rows = {key: part for key, part in self._rows.items() if key[0] == "gateway"}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def _drawn(self) -> "RenderableType":
        order = ("gateway", "retrieval", "integration")
        rows = [part for _, part in sorted(self._rows.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))]
        table = grid.fitted(status.COLUMNS, rows, self._console)
        table.caption = "Ctrl-C ends"
        table.caption_justify = "left"
        return table
