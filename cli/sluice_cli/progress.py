"""Follows a task: a progress bar on a terminal, a line for each step elsewhere."""

import sys
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
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[counts]}"),
    )
    with Progress(*columns, console=output.console(stderr=True), transient=True) as progress:
        row = progress.add_task("waiting", total=1.0, counts="")
        async with client.watch_task(name) as watch:
            async for item in watch:
                task = item.task
                progress.update(row, completed=task.progress, description=task.step or "working", counts=counts(task))
    return task


def counts(task: "Task") -> str:
    """Returns what a task counted, for people."""
    return ", ".join(f"{value} {name}" for name, value in sorted(task.counts.items()) if "." not in name)


def ended_badly(task: "Task") -> None:
    """Says why a task did not succeed."""
    from sluice.task.v1.task_service_pb2 import TASK_STATE_CANCELLED
    from sluice_kit.errors import from_status

    if task.state == TASK_STATE_CANCELLED:
        output.say(f"sluice: {task.name} was cancelled")
        return
    error = from_status(task.error)
    output.say(f"sluice: {task.name} failed: {error.message} ({error.reason_name})")
