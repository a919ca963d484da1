"""Fit: what each target is told, and what of it is left out where that is more than the target can read.

Passages go first, then the older half of what was said before. Where the window is known that happens before the call;
a plain request of ordinary length is not even measured.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from sluice.chat.v1.event_pb2 import Event, Notice, NoticeCode
from sluice.chat.v1.passage_pb2 import Passage
from sluice.chat.v1.target_pb2 import Target
from sluice.provider.v1.model_pb2 import Model
from sluice.provider.v1.provider_service_pb2 import GenerateRequest
from sluice_gateway.catalog import Catalog
from sluice_gateway.conversations.history import MARGIN, estimate_passages, estimate_request
from sluice_gateway.counter import TokenCounter
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.expect import tokens_of_passages, tokens_of_spec
from sluice_gateway.pipeline.prompts import Template
from sluice_gateway.pipeline.request import generate_request
from sluice_gateway.responses.response import Response
from sluice_kit.errors import SluiceError

if TYPE_CHECKING:
    from sluice_gateway.pipeline.run import Job

log = logging.getLogger(__name__)

_SHORT_BYTES: Final = 8192
"""What is shorter is not measured: there is no window that it does not fit into."""
_BYTES_PER_TOKEN: Final = 4
_LEAST_ANSWER: Final = 256
"""Tokens kept free for an answer whose length nobody limits, or a quarter of a window that is smaller than that."""
_COUNT_SECONDS: Final = 3.0
"""Longest wait for a vendor's count; then the estimate counts."""
_LOOK_SECONDS: Final = 2.0
"""Longest wait for the window of a target, once another one has proved too small."""


class Fit:
    """What the targets of one answer are told."""

    def __init__(
        self,
        catalog: Catalog,
        counter: TokenCounter,
        response: Response,
        job: "Job",
        template: Template | None,
        passages: list[Passage],
    ) -> None:
        self._catalog = catalog
        self._counter = counter
        self._response = response
        self._job = job
        self._template = template
        self.passages = passages
        """What is left of them."""

    def request(self, record: AttemptRecord) -> GenerateRequest:
        """Returns the request of an attempt, without what was said before."""
        job = self._job
        return generate_request(
            job.spec, record, self._template, self.passages, whole=job.whole, defaults=job.plan.parameters
        )

    def tokens(self, target: Target, prefill: str = "") -> int:
        """Returns the estimated tokens of what a target is about to be told; `prefill` is said for it beside that."""
        talk = self._job.talk
        return (
            tokens_of_spec(self._job.spec)
            + tokens_of_passages(self.passages, self._template)
            + (0 if talk is None else talk.tokens(target))
            + len(prefill) // _BYTES_PER_TOKEN
        )

    async def recall(self, target: Target) -> None:
        """Finds out how much a target can be told of the conversation, if there is one."""
        if self._job.talk is not None:
            await self._job.talk.recall(self.request(AttemptRecord(0, target)), self._job.call)

    async def prepare(self, target: Target) -> bool:
        """Gets ready for an attempt at a target; its passages are left out if they are known to be too much for it.

        Returns whether the rest fits, as far as that is known. What was said before fits in any case: see `recall`.
        """
        fits = await self._prepare(target)
        await self.recall(target)
        return fits

    async def _prepare(self, target: Target) -> bool:
        size = self._job.spec.ByteSize()
        if self.passages:
            size += sum(len(passage.text) for passage in self.passages)
        if size < _SHORT_BYTES:
            return True
        model = self._catalog.known(target)
        if model is None or not model.context_window or await self._fits(target, model):
            return True
        if not self.passages:
            return False
        self._drop_passages("the prompt is too long for the model; it is sent without the passages")
        return await self._fits(target, model)

    async def _fits(self, target: Target, model: Model) -> bool:
        request = self.request(AttemptRecord(0, target))
        window = model.context_window
        space = window - min(_LEAST_ANSWER, window // 4)
        if request.parameters.HasField("max_output_tokens"):
            space = window - request.parameters.max_output_tokens
        estimate = estimate_request(request)
        if estimate * (1 + MARGIN) <= space:
            return True
        counted = await self._count(request)
        return (estimate if counted is None else counted) <= space

    async def _count(self, request: GenerateRequest) -> int | None:
        """Returns the vendor's count, passages estimated; None if there is none."""
        provider = request.target.provider
        if not self._counter.counts(provider):
            return None
        try:
            async with asyncio.timeout(_COUNT_SECONDS):
                counted = await self._counter.count(request, (), self._job.call, _COUNT_SECONDS)
        except TimeoutError:
            log.info("tokens are not counted in time", extra={"integration": provider})
            return None
        except SluiceError as error:
            log.info("tokens cannot be counted", extra={"integration": provider, "reason": error.reason_name})
            return None
        return None if counted is None else counted + estimate_passages(request)

    def shorten(self, target: Target) -> bool:
        """Leaves something out of what a target found too long. Returns whether there was anything to leave out."""
        if self.passages:
            self._drop_passages("the prompt was too long for the model; it was sent once more without the passages")
            return True
        return self._job.talk is not None and self._job.talk.halve(target)

    def _drop_passages(self, message: str) -> None:
        self.passages = []
        self._response.emit(Event(notice=Notice(code=NoticeCode.NOTICE_CODE_PASSAGES_DROPPED, message=message)))

    async def reads_more(self, target: Target, than: Target) -> bool:
        """Whether a target is known to read more than another one, or, where the other's window is not known, more than
        there is to be read."""
        window, other = await self._window(target), await self._window(than)
        if not other:
            request = self.request(AttemptRecord(0, target))
            other = round(estimate_request(request) * (1 + MARGIN)) + request.parameters.max_output_tokens
        return window > other

    async def _window(self, target: Target) -> int:
        try:
            model = await self._catalog.find(target, self._job.call.with_timeout(_LOOK_SECONDS))
        except SluiceError as error:
            log.info("the window is unknown", extra={"target": target.model, "reason": error.reason_name})
            return 0
        return 0 if model is None else model.context_window
