"""The command line: which parts run, how often, and where what they find is written."""

import argparse
import asyncio
import importlib.util
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench import machine
from bench.process import StartError
from bench.retrieval import parts, report
from bench.retrieval.packages import versions
from bench.retrieval.questions import StaleQuestions
from bench.retrieval.service import IndexFailed
from sluice_retrieval.minilm.embedder import MODEL

_ROUNDS: Final = 3
_LIBRARIES: Final = ("numpy", "qdrant-edge-py", "tokenizers", "tree-sitter")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.retrieval",
        description="Measures whether searches find the right lines, and what indexing and searching cost.",
        epilog="parts: " + "; ".join(f"{name}: {part.about}" for name, part in parts.PARTS.items()),
    )
    parser.add_argument(
        "--parts", nargs="+", choices=tuple(parts.PARTS), default=tuple(parts.PARTS), metavar="NAME", help="which"
    )
    parser.add_argument(
        "--rounds", type=int, default=_ROUNDS, metavar="N", help=f"how often what is timed (default {_ROUNDS})"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run, all of it small: does everything work?")
    parser.add_argument("--out", type=Path, metavar="STEM", help="write STEM.jsonl and STEM.md")
    return parser


class _Notes:
    """Tells each row at once, so that what was measured before a run is stopped is not lost."""

    def __init__(self, file: Path | None, about: dict[str, str]) -> None:
        self.rows: list[parts.Row] = []
        self._file = file
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(msgspec.json.encode({"versions": about}) + b"\n")

    def __call__(self, row: parts.Row) -> None:
        self.rows.append(row)
        sys.stderr.write(report.line(row) + "\n")
        sys.stderr.flush()
        if self._file is not None:
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")


async def _run(names: Sequence[str], settings: parts.Settings, say: parts.Say) -> None:
    task = asyncio.current_task()
    assert task is not None  # asyncio.run makes one
    # Ctrl-C cancels this task by itself; both ways, what was started is stopped.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    for name in names:
        # Short, because Unix sockets lie in it.
        with tempfile.TemporaryDirectory(prefix="sluice-bench-", ignore_cleanup_errors=True) as folder:
            await parts.PARTS[name].run(settings, Path(folder), say)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for. Returns 0 if all of it ran: results are no failure, whatever they are."""
    options = _parser().parse_args(argv)
    settings = parts.Settings(rounds=1 if options.quick else options.rounds, quick=options.quick)
    libraries = [name for name in _LIBRARIES if importlib.util.find_spec(name.replace("-", "_").removesuffix("_py"))]
    about = machine.versions([], libraries) | {"model": MODEL} | versions(parts.PACKAGES)
    say = _Notes(options.out and options.out.with_suffix(".jsonl"), about)
    try:
        asyncio.run(_run(options.parts, settings, say))
    except (StartError, IndexFailed, StaleQuestions) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.stderr.write("bench: stopped\n")
        return 130
    text = report.markdown(about, say.rows, quick=options.quick)
    sys.stdout.write(text)
    if options.out is not None:
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    return 0
