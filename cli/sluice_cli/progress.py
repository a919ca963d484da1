"""Follows a task: a progress bar on a terminal, a line for each step elsewhere."""

import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

from sluice_cli import output

if TYPE_CHECKING:
    from sluice.task.v1.task_service_pb2 import Task
    from sluice_client import SluiceClient


async def follow(client: "SluiceClient", name: str, *, quiet: bool = False) -> "Task":
    """Watches a task to its end and returns it as it ended. Progress goes to standard error unless `quiet`."""
    if quiet:
        return await client.watch_task(name).result()
    if sys.stderr.isatty():
        return await _bar(client, name)
    last = ""
    async with client.watch_task(name) as watch:
        async for item in watch:
            task = item.task
            if task.step and task.step != last:
                last = task.step
                output.say(f"{task.progress:4.0%}  {last}")
    return task


async def _bar(client: "SluiceClient", name: str) -> "Task":
    import time

    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[counts]}"),
    )
    with Progress(*columns, console=output.console(stderr=True), transient=True) as progress:
        row = progress.add_task("waiting", total=1.0, counts="")
        began: tuple[float, int] | None = None
        async with client.watch_task(name) as watch:
            async for item in watch:
                task = item.task
                done = task.counts.get("chunks", 0)
                if done and began is None:
                    began = time.monotonic(), done
                told = counts(task, leave_out=("bytes",))
                if began is not None and time.monotonic() > began[0] + 1:
                    told += f", {(done - began[1]) / (time.monotonic() - began[0]):,.0f} chunks/s"
                progress.update(row, completed=task.progress, description=task.step or "working", counts=told)
    return task


def counts(task: "Task", leave_out: Collection[str] = ()) -> str:
    """Returns what a task counted, for people: without zeros, and what is counted by reason."""
    shown = (name for name in sorted(task.counts) if "." not in name and name not in leave_out)
    return ", ".join(f"{task.counts[name]:,} {name}" for name in shown if task.counts[name])


def ended_badly(task: "Task") -> None:
    """Says why a task did not succeed."""
    from sluice.task.v1.task_service_pb2 import TASK_STATE_CANCELLED
    from sluice_kit.errors import from_status

    if task.state == TASK_STATE_CANCELLED:
        output.say(f"sluice: {task.name} was cancelled")
        return
    error = from_status(task.error)
    output.say(f"sluice: {task.name} failed: {error.message} ({error.reason_name})")
