"""What operators do to a mesh while it is used: they reload it, register an adapter and remove it, index, ask, delete."""

import itertools
from typing import Final

from bench.soak.deeds import Wrong
from bench.soak.site import CORPUS, OPERATOR, Mesh
from sluice.retrieval.v1.corpus_pb2 import LocalSource, Source
from sluice.task.v1.task_service_pb2 import TaskState
from sluice_client import SluiceClient, question

_QUESTION: Final = "How does the valve compute the flow in litres?"


class Operator:
    """One operator, with a client of its own."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._numbers = itertools.count()
        self.client = SluiceClient(mesh.address, mesh.key(OPERATOR))
        self.chores: Final = (self.reload, self.register, self.index, self.ground, self.usage)

    async def prepare(self) -> None:
        """Indexes the corpus that grounded questions are about."""
        await self._index(CORPUS)

    async def reload(self) -> None:
        """Takes another configuration."""
        self._mesh.reload()

    async def register(self) -> None:
        """Registers an integration under a name that nobody had before, asks it, and removes it."""
        name = f"spare-{next(self._numbers)}"
        await self.client.register_integration(name, self._mesh.spare)
        await self.client.chat(question("Are you there?", model=f"{name}/m-n8"))
        await self.client.integration_health(name)
        await self.client.remove_integration(name)

    async def index(self) -> None:
        """Makes a corpus, indexes it and deletes it."""
        name = f"corpus-{next(self._numbers)}"
        await self._index(name)
        await self.client.delete_corpus(name)

    async def ground(self) -> None:
        """Asks what is answered with citations."""
        answer = await self.client.chat(question(_QUESTION, model="quotes/quote", corpora=[CORPUS]))
        if not answer.citations:
            raise Wrong("an answer without citations")

    async def usage(self) -> None:
        """Adds up what was used."""
        _ = [row async for row in self.client.query_usage()]

    async def _index(self, name: str) -> None:
        await self.client.create_corpus(name)
        source = Source(local=LocalSource(path=str(self._mesh.source)))
        task = await self.client.index_corpus(name, source)
        ended = await self.client.watch_task(task.name).result()
        if ended.state != TaskState.TASK_STATE_SUCCEEDED:
            raise Wrong(f"an index failed: {ended.error.message}")
