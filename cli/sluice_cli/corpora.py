"""`sluice corpora`."""

from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli import output, session
from sluice_cli.options import Address, Json, Key, ListByDefault

if TYPE_CHECKING:
    from sluice.retrieval.v1.corpus_pb2 import Corpus
    from sluice_client import SluiceClient

app = typer.Typer(cls=ListByDefault, help="List and delete corpora.")


@app.callback()
def corpora() -> None:
    """List and delete corpora. Without a command: list."""


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


def _origin(corpus: "Corpus") -> str:
    source = corpus.source
    if source.HasField("git"):
        return source.git.url + (f"@{source.git.revision}" if source.git.revision else "")
    return source.local.path
