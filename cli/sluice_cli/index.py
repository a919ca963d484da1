"""`sluice index` and `sluice search`."""

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluice_cli import output, session
from sluice_cli.options import EXIT_FAILURE, EXIT_USAGE, Address, Exclude, Include, Json, Key

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sluice.retrieval.v1.corpus_pb2 import PathFilters, Source
    from sluice.retrieval.v1.corpus_service_pb2 import IndexResult
    from sluice.task.v1.task_service_pb2 import Task
    from sluice_client import SluiceClient

_URL: Final = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_CANCEL_SECONDS: Final = 5.0
_MAX_ID: Final = 63


def index(
    source: Annotated[str, typer.Argument(metavar="PATH_OR_URL", help="A folder, or the address of a git repository.")],
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="Name of the corpus. Default: the folder's or repository's name.")
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Branch, tag or commit of a repository. Default: its default branch."),
    ] = None,
    credential: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Credential for a private repository, by its name in the configuration."),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count files, chunks and tokens.")] = False,
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Index a folder or a git repository, so that it can be searched and asked about.

    The corpus is created if there is none of that name. Indexing again replaces its contents at once when the new ones
    are complete; until then searches see the old ones. Ctrl-C cancels the indexing.

    [bold]Examples[/]

      sluice index .

      sluice index https://github.com/pallets/click --name click --include "src/**"
    """
    identity = name or corpus_id(source)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,62}", identity):
        output.say(
            f"sluice: '{identity}' cannot name a corpus: lower-case letters, digits, '_', '.' and '-', at most {_MAX_ID}"
        )
        raise typer.Exit(EXIT_USAGE)
    if credential is not None and not _URL.match(source):
        output.say("sluice: --credential is for the https address of a repository")
        raise typer.Exit(EXIT_USAGE)
    if not _URL.match(source) and not Path(source).expanduser().is_dir():
        output.say(f"sluice: {source} is not a folder, nor an address like https://host/repository")
        raise typer.Exit(EXIT_USAGE)

    async def work(client: "SluiceClient") -> None:
        from sluice_client.requests import path_filters, source_of

        filters = path_filters(include or (), exclude or ()) if include or exclude else None
        began = time.monotonic()
        place = source_of(source, revision=revision, credential=credential)
        task = await _index(client, identity, place, filters, dry_run=dry_run, quiet=as_json)
        _report(task, time.monotonic() - began, dry_run=dry_run, as_json=as_json)

    session.run(work, address, key, as_json=as_json)


def search(
    query: Annotated[str, typer.Argument(help="A question, words or identifiers.")],
    corpus: Annotated[
        list[str], typer.Option("--corpus", "-c", metavar="NAME", help="Where to search. May be repeated.")
    ],
    top_k: Annotated[int | None, typer.Option(min=1, max=100, help="Most passages to return. Default: 10.")] = None,
    path: Annotated[
        list[str] | None, typer.Option("--path", metavar="PATTERN", help="Only files like this. May be repeated.")
    ] = None,
    exclude: Exclude = None,
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Search corpora and print the passages that match best.

    [bold]Example[/]

      sluice search "retry policy" --corpus sluice --path "libs/**" --top-k 3
    """

    async def work(client: "SluiceClient") -> None:
        from sluice_cli.ask import print_passages
        from sluice_client.requests import path_filters

        filters = path_filters(path or (), exclude or ()) if path or exclude else None
        passages = await client.search(query, corpus, top_k=top_k, filters=filters)
        if as_json:
            output.emit({"passages": [output.as_json(passage) for passage in passages]})
        elif passages:
            print_passages(passages)
        else:
            output.say("nothing matches")

    session.run(work, address, key, as_json=as_json)


def corpus_id(source: str) -> str:
    """Returns the id of a corpus made from the last part of a path or address."""
    last = source.rstrip("/").rpartition("/")[2] if _URL.match(source) else Path(source).expanduser().resolve().name
    cleaned = re.sub(r"[^a-z0-9_.-]+", "-", last.removesuffix(".git").lower()).strip("-_.")
    return cleaned[:_MAX_ID].rstrip("-_.") or "corpus"


async def _index(
    client: "SluiceClient",
    identity: str,
    source: "Source",
    filters: "PathFilters | None",
    *,
    dry_run: bool,
    quiet: bool,
) -> "Task":
    """Indexes and returns the task as it ended. A corpus made for it goes again unless something was indexed into it."""
    from sluice.task.v1.task_service_pb2 import TASK_STATE_SUCCEEDED
    from sluice_kit.errors import NotFoundError

    made = False
    try:
        await client.get_corpus(identity)
    except NotFoundError:
        await client.create_corpus(identity)
        made = True
    keep = False
    try:
        task = await client.index_corpus(identity, source, filters=filters, dry_run=dry_run)
        task = await _watch(client, task.name, quiet=quiet)
        keep = not dry_run and task.state == TASK_STATE_SUCCEEDED
    finally:
        if made and not keep:
            await _cleaning(client.delete_corpus(identity), f"the empty corpus {identity} stays")
    return task


async def _watch(client: "SluiceClient", name: str, *, quiet: bool) -> "Task":
    import asyncio

    from sluice_cli.progress import follow

    try:
        return await follow(client, name, quiet=quiet)
    except asyncio.CancelledError:

        async def cancel() -> None:
            await client.cancel_task(name)
            await client.watch_task(name).result()

        if await _cleaning(cancel(), f"{name} may still run; see `sluice tasks show {name}`"):
            output.say(f"cancelled {name}")
        raise


async def _cleaning(work: "Coroutine[Any, Any, None]", otherwise: str) -> bool:
    """Does what is due on the way out. Its failure is told, and hides nothing of what led here."""
    import asyncio

    from sluice_kit.errors import SluiceError

    try:
        await asyncio.wait_for(work, _CANCEL_SECONDS)
    except (SluiceError, TimeoutError) as error:
        output.say(f"note: {otherwise} ({getattr(error, 'message', 'no answer in time')})")
        return False
    return True


def _report(task: "Task", seconds: float, *, dry_run: bool, as_json: bool) -> None:
    from sluice.retrieval.v1.corpus_service_pb2 import IndexResult
    from sluice.task.v1 import task_service_pb2

    result = IndexResult()
    task.result.Unpack(result)
    if as_json:
        output.emit({"task": output.as_json(task)})
    if task.state != task_service_pb2.TASK_STATE_SUCCEEDED:
        from sluice_cli.progress import ended_badly

        ended_badly(task)
        raise typer.Exit(EXIT_FAILURE)
    if not as_json:
        print(summary(result, seconds, dry_run=dry_run))
        if sys.stdout.isatty() and not dry_run:
            output.say(f'  → ask about it: sluice ask "…" --corpus {result.corpus.name.removeprefix("corpora/")}')


def summary(result: "IndexResult", seconds: float, *, dry_run: bool) -> str:
    """Returns what indexing did, in one line."""
    what = "would index" if dry_run else "indexed"
    counts = f"{result.files} files, {result.chunks} chunks"
    if result.tokens:
        counts += f", {result.tokens} tokens to embed"
    skipped = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(result.skipped.items()))
    revision = f" at {result.corpus.revision}" if result.corpus.revision and not dry_run else ""
    return f"{what} {result.corpus.name}{revision}: {counts} in {seconds:.1f} s; skipped: {skipped or 'none'}"
