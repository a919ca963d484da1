"""Recall: how much of a conversation's history a model can read, and that much of it."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sluice.chat.v1.message_pb2 import Message
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_gateway.catalog import Catalog
from sluice_gateway.conversations.history import (
    MARGIN,
    Group,
    cut,
    estimate_passages,
    estimate_request,
    groups,
    is_bound,
)
from sluice_gateway.conversations.turns import MAX_MESSAGES, Past
from sluice_gateway.counter import TokenCounter
from sluice_gateway.integrations import Integrations
from sluice_kit.call import Call
from sluice_kit.errors import SluiceError

log = logging.getLogger(__name__)

_WINDOW_SECONDS: Final = 2.0
"""Longest wait for what a model can read; then the configured default counts."""
_COUNT_SECONDS: Final = 3.0
"""Longest wait for a vendor's counts, all together; then the estimate counts."""
_MAX_COUNTS: Final = 3
_ANSWER_SHARE: Final = 4
"""Of the window this part, at most, is kept free for an answer whose length nobody limits."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """What one model is told of the history."""

    groups: Sequence[Group]
    left_out: int
    budget: int
    """Tokens there were for it."""
    bound: bool = False
    """Whether the newest group has to stay."""

    @property
    def messages(self) -> list[Message]:
        """All of it, oldest first."""
        return [message for group in self.groups for message in group.messages]

    @property
    def turns(self) -> int:
        """How many turns that are."""
        return sum(group.turns for group in self.groups)

    def halved(self) -> "Recalled | None":
        """Returns what is left without the older half; None if nothing can be left out."""
        tokens = [group.tokens for group in self.groups]
        counts = [len(group.messages) for group in self.groups]
        start = cut(tokens, counts, sum(tokens) // 2, MAX_MESSAGES, bound=self.bound)
        if not start:
            return None
        left_out = self.left_out + sum(group.turns for group in self.groups[:start])
        return Recalled(self.groups[start:], left_out, self.budget // 2, self.bound)


class Recall:
    """Fits histories into models. One for the whole gateway."""

    def __init__(self, catalog: Catalog, integrations: Integrations, default_window: int) -> None:
        self._catalog = catalog
        self._default_window = default_window
        self.counter = TokenCounter(integrations)

    async def recall(self, past: Past, request: pb.GenerateRequest, call: Call) -> Recalled:
        """Returns what the target of a request is told, beside what the request itself says.

        Never fails for a vendor that does not answer: then defaults and estimates count.
        """
        own = request.messages
        found = groups(past.turns, own, request.target.provider)
        if not found:
            return Recalled((), past.unread, 0)
        bound = is_bound(past.turns, own)
        counts = [len(group.messages) for group in found]
        room = MAX_MESSAGES - len(own)
        space = await self._space(request, call)
        fixed = estimate_request(request)
        tokens = [group.tokens for group in found]
        careful = 1 + MARGIN
        start = cut(tokens, counts, space / careful - fixed, room, bound=bound)
        if start and self.counter.counts(request.target.provider):
            most = cut(tokens, counts, float("inf"), room, bound=bound)
            start = await self._by_count(request, found, space, most, start, bound=bound, call=call)
        left_out = past.unread + sum(group.turns for group in found[:start])
        return Recalled(found[start:], left_out, max(0, round(space - fixed)), bound)

    async def _space(self, request: pb.GenerateRequest, call: Call) -> int:
        """Returns the tokens that a target can read, what is kept free for its answer taken off."""
        window, longest = self._default_window, 0
        try:
            model = await self._catalog.find(request.target, call.with_timeout(_WINDOW_SECONDS))
        except SluiceError as error:
            log.info("the window is unknown", extra={"target": request.target.model, "reason": error.reason_name})
        else:
            if model is not None and model.HasField("context_window"):
                window = model.context_window
                longest = model.max_output_tokens
        if request.parameters.HasField("max_output_tokens"):
            return max(0, window - request.parameters.max_output_tokens)
        return window - min(longest or window, window // _ANSWER_SHARE)

    async def _by_count(
        self,
        request: pb.GenerateRequest,
        found: Sequence[Group],
        space: int,
        most: int,
        careful: int,
        *,
        bound: bool,
        call: Call,
    ) -> int:
        """Returns how many groups are left out by the vendor's own count, where it counts; else `careful`.

        `most` groups are left out in any case. A count is asked for what may fit by what is known of the ones before,
        until it does.
        """
        tokens = [group.tokens for group in found]
        counts = [len(group.messages) for group in found]
        # Counters do not see passages, so these stay an estimate.
        space -= round(estimate_passages(request) * (1 + MARGIN))
        fixed = estimate_request(request) - estimate_passages(request)
        start = most
        try:
            async with asyncio.timeout(_COUNT_SECONDS):
                for _ in range(_MAX_COUNTS):
                    if start >= careful:
                        return careful  # the estimate, with its margin, has the same result
                    kept = found[start:]
                    history = [message for group in kept for message in group.messages]
                    counted = await self.counter.count(request, history, call, _COUNT_SECONDS)
                    if counted is None:
                        return careful
                    if counted <= space:
                        return start
                    scale = counted / max(1, fixed + sum(group.tokens for group in kept))
                    fits = cut(tokens, counts, space / scale - fixed, MAX_MESSAGES, bound=bound)
                    start = max(start + 1, fits)
        except TimeoutError:
            log.info("tokens are not counted in time", extra={"integration": request.target.provider})
        except SluiceError as error:
            extra = {"integration": request.target.provider, "reason": error.reason_name}
            log.info("tokens cannot be counted", extra=extra)
        return careful
