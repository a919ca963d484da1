"""Orders the best of what was found by a model that reads question and text together."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from sluice.chat.v1.passage_pb2 import MatchKind
from sluice_kit.call import Call
from sluice_kit.errors import ConfigurationError, SluiceError
from sluice_retrieval.config import RerankerConfig
from sluice_retrieval.embedding import EmbeddingClient
from sluice_retrieval.search.candidates import Candidate

log = logging.getLogger(__name__)
_MAX_QUERY_CHARS = 8192
_MAX_TEXT_CHARS = 6000


class Reranker:
    """The configured model, if there is one."""

    def __init__(self, config: RerankerConfig | None, client: EmbeddingClient) -> None:
        self._config = config
        self._client = client

    def wanted(self, asked: bool | None) -> int:
        """Returns how many candidates are to be ordered; 0 for none. `asked` is what the request says.

        Raises INTEGRATION_MISCONFIGURED if it asks for what is not configured.
        """
        if asked and self._config is None:
            raise ConfigurationError(
                "no reranker is configured: set retrieval.reranker.model, or leave `rerank` out",
                metadata={"setting": "retrieval.reranker.model"},
            )
        return self._config.candidates if self._config is not None and asked is not False else 0

    async def order(
        self, query: str, candidates: Sequence[Candidate], asked: bool | None, call: Call
    ) -> list[Candidate]:
        """Returns candidates (with their lines), best first, pinned ones before all others.

        Where the model fails and the request did not ask for it, they stay as they are.
        """
        config = self._config
        pinned = [one for one in candidates if one.match == MatchKind.MATCH_KIND_PINNED]
        others = [one for one in candidates if one.match != MatchKind.MATCH_KIND_PINNED]
        if config is None or len(others) < 2:
            return [*pinned, *others]
        texts = [f"{one.path} {one.symbol}\n{one.text}"[:_MAX_TEXT_CHARS] for one in others]
        try:
            ranked = await self._client.rerank(
                call.identity, config.model, query[:_MAX_QUERY_CHARS], texts, config.seconds
            )
        except SluiceError as error:
            if asked:
                raise
            log.warning("searching without the reranker", extra={"reason": error.reason_name, "detail": error.message})
            return [*pinned, *others]
        order = [number for number, _ in ranked if 0 <= number < len(others)]
        scores = dict(ranked)
        left = [number for number in range(len(others)) if number not in scores]
        # A model may return fewer than it was given; the rest follows in its own order.
        return [
            *pinned,
            *(replace(others[number], score=scores[number]) for number in order),
            *map(others.__getitem__, left),
        ]
