"""SearchService."""

import time

from sluice.retrieval.v1 import search_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.telemetry import current
from sluice_retrieval.rpc.corpus_service import path_filter
from sluice_retrieval.search.searcher import Searcher
from sluice_retrieval.search.verifier import Verifier


class SearchService:
    """Finds lines, and checks that they still stand."""

    def __init__(self, searcher: Searcher, verifier: Verifier) -> None:
        self._searcher = searcher
        self._verifier = verifier

    async def Search(self, request: pb.SearchRequest, call: Call) -> pb.SearchResponse:
        began = time.perf_counter()
        passages = await self._searcher.search(request, path_filter(request.filters), call)
        mode = pb.SearchMode.Name(request.mode).removeprefix("SEARCH_MODE_").lower() if request.mode else "any"
        current().searched(mode, time.perf_counter() - began, len(passages))
        return pb.SearchResponse(passages=passages)

    async def VerifySpans(self, request: pb.VerifySpansRequest, call: Call) -> pb.VerifySpansResponse:
        return pb.VerifySpansResponse(states=await self._verifier.verify(call.tenant, request.spans))
