"""Runs a module as a process of its own would, and tells on demand what is alive in it.

    python -m bench.soak.watched FILE MODULE ARGUMENT...

On SIGUSR1 it writes a count as JSON into FILE; on SIGUSR2 it collects garbage first and counts objects by type, too.
Nothing but the standard library is imported, so that the process is the one that is watched.
"""

import asyncio
import gc
import json
import os
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any


def _tasks() -> Counter[str]:
    try:
        return Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())
    except RuntimeError:  # no loop runs at this moment
        return Counter()


def count(*, types: bool) -> dict[str, Any]:
    """Returns how many tasks and blocks of memory of the interpreter there are; with `types` after a collection, and
    how many objects of each type and tasks of each coroutine."""
    if types:
        gc.collect()
    tasks = _tasks()
    found: dict[str, Any] = {"tasks": tasks.total(), "blocks": sys.getallocatedblocks()}
    if types:
        found["coroutines"] = tasks
        kinds = Counter(map(type, gc.get_objects()))
        found["types"] = {f"{kind.__module__}.{kind.__qualname__}": number for kind, number in kinds.items()}
    return found


def install(file: Path) -> None:
    """Has the signals answered."""

    def answer(number: int, _: object) -> None:
        new = file.with_suffix(".new")
        new.write_text(json.dumps(count(types=number == signal.SIGUSR2)), encoding="utf-8")
        os.replace(new, file)  # whole, or not there yet  # noqa: PTH105 - pathlib's is the same

    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, answer)


def main() -> None:
    """Runs the module that the arguments name."""
    _, file, module, *arguments = sys.argv
    install(Path(file))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
