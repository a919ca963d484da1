"""`sluice tasks`."""

from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli import output, session
from sluice_cli.options import EXIT_FAILURE, Address, Json, Key, ListByDefault

if TYPE_CHECKING:
    from sluice.task.v1.task_service_pb2 import Task
    from sluice_client import SluiceClient

app = typer.Typer(cls=ListByDefault, help="List, show, watch and cancel long work.")
Name = Annotated[str, typer.Argument(metavar="TASK", help="Its name, tasks/… (the prefix may be left out).")]


@app.callback()
def tasks() -> None:
    """List, show, watch and cancel long work. Without a command: list."""


@app.command("list")
def list_tasks(
    limit: Annotated[int, typer.Option(min=1, help="Most tasks to list.")] = 20,
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """List tasks, newest first."""

    async def work(client: "SluiceClient") -> None:
        tasks: list[Task] = []
        unreachable: set[str] = set()
        async for page in client.list_tasks(page_size=min(limit, 1000)).pages():
            tasks.extend(page.tasks)
            unreachable.update(page.unreachable)
            if len(tasks) >= limit:
                break
        del tasks[limit:]
        if as_json:
            output.emit({"tasks": [output.as_json(task) for task in tasks], "unreachable": sorted(unreachable)})
            return
        rows = [
            (task.name, task.kind, _state(task), f"{task.progress:.0%}", output.when(task.create_time), task.subject)
            for task in tasks
        ]
        output.table(("task", "kind", "state", "done", "created", "subject"), rows, empty="no tasks")
        for owner in sorted(unreachable):
            output.say(f"note: tasks of '{owner}' are missing: it does not answer")

    session.run(work, address, key, as_json=as_json)


@app.command("show")
def show_task(name: Name, as_json: Json = False, address: Address = None, key: Key = None) -> None:
    """Show one task."""

    async def work(client: "SluiceClient") -> None:
        _show(await client.get_task(_full(name)), as_json)

    session.run(work, address, key, as_json=as_json)


@app.command("watch")
def watch_task(name: Name, as_json: Json = False, address: Address = None, key: Key = None) -> None:
    """Follow a task to its end; with --json one line for each event. Exits with 1 unless it succeeds."""

    async def work(client: "SluiceClient") -> None:
        from sluice.task.v1.task_service_pb2 import TASK_STATE_SUCCEEDED
        from sluice_cli import progress

        if as_json:
            async with client.watch_task(_full(name)) as watch:
                async for item in watch:
                    output.emit({"sequence": item.sequence, "task": output.as_json(item.task)})
            task = item.task
        else:
            task = await progress.follow(client, _full(name))
            _show(task, as_json)
        if task.state != TASK_STATE_SUCCEEDED:
            progress.ended_badly(task)
            raise typer.Exit(EXIT_FAILURE)

    session.run(work, address, key, as_json=as_json)


@app.command("cancel")
def cancel_task(name: Name, as_json: Json = False, address: Address = None, key: Key = None) -> None:
    """Ask a task to stop."""

    async def work(client: "SluiceClient") -> None:
        _show(await client.cancel_task(_full(name)), as_json)

    session.run(work, address, key, as_json=as_json)


def _full(name: str) -> str:
    return name if name.startswith("tasks/") else f"tasks/{name}"


def _state(task: "Task") -> str:
    from sluice.task.v1.task_service_pb2 import TaskState

    return output.enum_word(TaskState.Name(task.state), "TASK_STATE_")


def _show(task: "Task", as_json: bool) -> None:
    if as_json:
        output.emit({"task": output.as_json(task)})
        return
    from sluice_cli.progress import counts

    facts = {
        "task": task.name,
        "kind": task.kind,
        "subject": task.subject,
        "state": f"{_state(task)}, {task.progress:.0%} {task.step}".rstrip(),
        "counts": counts(task),
        "created": output.when(task.create_time),
        "ended": output.when(task.end_time),
        "error": task.error.message,
    }
    for label, value in facts.items():
        if value:
            print(f"{label + ':':9}{value}")
