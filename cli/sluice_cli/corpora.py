"""`sluice corpora`."""

from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli import output, progress, session
from sluice_cli.options import EXIT_FAILURE, Address, Json, Key, ListByDefault

if TYPE_CHECKING:
    from sluice.retrieval.v1.corpus_pb2 import Corpus
    from sluice_client import SluiceClient

app = typer.Typer(cls=ListByDefault, help="List, move and delete corpora.")


@app.callback()
def corpora() -> None:
    """List, move and delete corpora. Without a command: list."""


@app.command("list")
def list_corpora(as_json: Json = False, address: Address = None, key: Key = None) -> None:
    """List the corpora and what is in them."""

    async def work(client: "SluiceClient") -> None:
        corpora = await client.list_corpora().all()
        if as_json:
            output.emit({"corpora": [output.as_json(corpus) for corpus in corpora]})
            return
        rows = [
            (
                corpus.name.removeprefix("corpora/"),
                str(corpus.document_count),
                str(corpus.chunk_count),
                corpus.revision[:20],
                output.when(corpus.index_time) or "never",
                _origin(corpus),
            )
            for corpus in corpora
        ]
        headers = ("name", "files", "chunks", "revision", "indexed", "from")
        output.table(headers, rows, empty="no corpora yet; make one: sluice index PATH_OR_URL")

    session.run(work, address, key, as_json=as_json)


@app.command("delete")
def delete_corpus(
    name: Annotated[str, typer.Argument(help="Name of the corpus.")],
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Delete a corpus with all its texts and vectors."""

    async def work(client: "SluiceClient") -> None:
        await client.delete_corpus(name)
        if as_json:
            output.emit({"deleted": f"corpora/{name.removeprefix('corpora/')}"})
        else:
            print(f"deleted {name}")

    session.run(work, address, key, as_json=as_json)


@app.command("move")
def move_corpus(
    name: Annotated[str, typer.Argument(help="Name of the corpus.")],
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Move a corpus's vectors into the configured store, e.g. from the local disk to a Qdrant server.

    Nothing is read or embedded again, and searches go on meanwhile. Set `retrieval.store` first, and restart the mesh.
    """

    async def work(client: "SluiceClient") -> None:
        from sluice.retrieval.v1.corpus_service_pb2 import MoveResult
        from sluice.task.v1.task_service_pb2 import TASK_STATE_SUCCEEDED

        started = await client.move_corpus(name)
        task = await progress.follow(client, started.name, quiet=as_json)
        if as_json:
            output.emit(output.as_json(task))
        if task.state != TASK_STATE_SUCCEEDED:
            progress.ended_badly(task)
            raise typer.Exit(EXIT_FAILURE)
        result = MoveResult()
        task.result.Unpack(result)
        if not as_json:
            what = f"moved {result.chunks} chunks of {name}" if result.chunks else f"{name} is there already"
            print(f"{what}: store {result.corpus.store}")

    session.run(work, address, key, as_json=as_json)


def _origin(corpus: "Corpus") -> str:
    source = corpus.source
    if source.HasField("git"):
        return source.git.url + (f"@{source.git.revision}" if source.git.revision else "")
    return source.local.path
