"""Standing: what recent attempts say of each target, for whoever chooses the next one.

A target's breaker counts what its vendor did; what went wrong on the way to its adapter counts against the whole
integration, whichever of its models was asked.
"""

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final
from weakref import WeakValueDictionary

from sluice.chat.v1.event_pb2 import AttemptOutcome
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_gateway.config import ResilienceConfig
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.breaker import Breaker, Circuit
from sluice_gateway.pipeline.budget import Budget
from sluice_kit.errors import SluiceError, make_error, reason_name

log = logging.getLogger(__name__)

_R = ErrorReason
_COMPLETED: Final = AttemptOutcome.ATTEMPT_OUTCOME_COMPLETED
_FAILED: Final = AttemptOutcome.ATTEMPT_OUTCOME_FAILED
_AGAINST_TARGET: Final = frozenset(
    {
        _R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        _R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
        _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        _R.ERROR_REASON_UPSTREAM_OVERLOADED,
        _R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        _R.ERROR_REASON_UPSTREAM_TIMEOUT,
        _R.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
        _R.ERROR_REASON_EMPTY_RESPONSE,
    }
)
_AGAINST_INTEGRATION: Final = frozenset({_R.ERROR_REASON_SERVICE_UNREACHABLE, _R.ERROR_REASON_DRAINING})
_MAX_TARGETS: Final = 4096
"""Callers may name any model, so what is remembered is bounded: the longest unused goes first."""
_LOOK_SECONDS: Final = 300.0
"""A measurement counts as old after this."""
_NEWEST_SHARE: Final = 0.2
"""How much the newest time to first token counts in the decayed mean."""


class _Standing:
    """What is known of one target."""

    __slots__ = ("breaker", "looked", "shared", "ttft")

    def __init__(self, breaker: Breaker, shared: "_Shared") -> None:
        self.breaker = breaker
        self.shared = shared
        self.ttft: float | None = None
        self.looked = float("-inf")
        """When its time to first token was measured, or a measurement began."""


class _Shared:
    """What the targets of one integration share."""

    __slots__ = ("__weakref__", "breaker", "retries")

    def __init__(self, config: ResilienceConfig) -> None:
        self.breaker = Breaker(config.breaker)
        self.retries = Budget(config.retry.share, config.retry.reserve)


class Standings:
    """What is known of every target. One for the whole gateway; for the event loop's thread."""

    def __init__(self, config: ResilienceConfig) -> None:
        self._config = config
        self._targets: OrderedDict[tuple[str, str], _Standing] = OrderedDict()
        self._shared: WeakValueDictionary[str, _Shared] = WeakValueDictionary()
        """Kept by the targets: integrations come and go, and what was asked of one that went may end later."""
        self._last_target: Target | None = None
        self._last: _Standing | None = None

    def _of(self, target: Target) -> _Standing:
        if target is self._last_target and self._last is not None:
            return self._last  # the usual case: several questions about one target
        key = (target.provider, target.model)
        standing = self._targets.get(key)
        if standing is None:
            shared = self._shared.get(target.provider)
            if shared is None:
                self._shared[target.provider] = shared = _Shared(self._config)
            standing = self._targets[key] = _Standing(Breaker(self._config.breaker), shared)
            if len(self._targets) > _MAX_TARGETS:
                self._targets.popitem(last=False)
        else:
            self._targets.move_to_end(key)
        self._last_target, self._last = target, standing
        return standing

    def admits(self, target: Target) -> bool:
        """Whether an attempt at a target may begin. If so, its end must be told by `ended` or `released`."""
        standing = self._of(target)
        now = asyncio.get_running_loop().time()
        if not standing.breaker.admits(now):
            return False
        if standing.shared.breaker.admits(now):
            return True
        standing.breaker.released()
        return False

    def would_admit(self, target: Target) -> bool:
        """Whether `admits` would return True; changes nothing."""
        standing = self._of(target)
        now = asyncio.get_running_loop().time()
        return standing.breaker.would_admit(now) and standing.shared.breaker.would_admit(now)

    def is_probe(self, target: Target) -> bool:
        """Whether the attempt just admitted is the one that decides whether a circuit closes."""
        standing = self._of(target)
        return standing.breaker.circuit is not Circuit.CLOSED or standing.shared.breaker.circuit is not Circuit.CLOSED

    def refusal(self, targets: "tuple[Target, ...]") -> SluiceError:
        """Returns the failure of a request none of whose targets admits an attempt."""
        now = asyncio.get_running_loop().time()
        waits = []
        for target in targets:
            standing = self._of(target)
            waits.append(max(standing.breaker.reopens_in(now), standing.shared.breaker.reopens_in(now)))
        seconds = max(min(waits), 0.001)
        names = ", ".join(f"{target.provider}/{target.model}" for target in targets)
        return make_error(
            _R.ERROR_REASON_CIRCUIT_OPEN,
            f"{names} failed too often of late and is left alone; the next try is in {seconds:.1f} s",
            retry_after=seconds,
            metadata={"provider": targets[0].provider},
        )

    def forget(self, integration: str) -> None:
        """Forgets all that is known of an integration's targets: another one has its id now."""
        for key in [key for key in self._targets if key[0] == integration]:
            del self._targets[key]
        self._shared.pop(integration, None)
        self._last_target = self._last = None

    def released(self, target: Target) -> None:
        """Is told that a probe will not begin, or that its end says nothing."""
        standing = self._of(target)
        standing.breaker.released()
        standing.shared.breaker.released()

    def spoke(self, target: Target) -> bool:
        """Is told of the first content of a probe: the target is back, however long its answer still takes. True."""
        self._succeeded(target, self._of(target), asyncio.get_running_loop().time())
        return True

    def ended(self, record: AttemptRecord) -> None:
        """Is told how an attempt ended."""
        target = record.target
        standing = self._of(target)
        now = asyncio.get_running_loop().time()
        ttft = record.ttft
        # Who was given up for its silence would have taken longer still.
        silent = ttft is None and record.error_reason == _R.ERROR_REASON_UPSTREAM_TIMEOUT
        measured = record.duration if silent else ttft
        if measured is not None:
            known = standing.ttft
            standing.ttft = measured if known is None else known + _NEWEST_SHARE * (measured - known)
            standing.looked = now
        if record.outcome == _COMPLETED:
            self._succeeded(target, standing, now)
            return
        reason = record.error_reason if record.outcome == _FAILED else _R.ERROR_REASON_UNSPECIFIED
        if reason in _AGAINST_TARGET:
            _log_closed(target.provider, standing.shared.breaker.succeeded(now))
            name = f"{target.provider}/{target.model}"
            _log_opened(name, standing.breaker, now, standing.breaker.failed(now, reason))
        elif reason in _AGAINST_INTEGRATION:
            if record.probe:
                standing.breaker.released()
            _log_opened(target.provider, standing.shared.breaker, now, standing.shared.breaker.failed(now, reason))
        elif ttft is not None:
            self._succeeded(target, standing, now)
        elif record.probe:
            self.released(target)

    def _succeeded(self, target: Target, standing: _Standing, now: float) -> None:
        if standing.breaker.succeeded(now):
            _log_closed(f"{target.provider}/{target.model}", True)
        if standing.shared.breaker.succeeded(now):
            _log_closed(target.provider, True)

    def ttft(self, target: Target) -> float | None:
        """Returns the decayed mean of a target's times to first token in seconds; None before the first."""
        return self._of(target).ttft

    def fastest_first(self, targets: Iterable[Target]) -> list[Target]:
        """Returns targets by their times to first token.

        One that was not measured for a while goes first, and no other until it was: what was slow may have changed.
        """
        now = asyncio.get_running_loop().time()
        ranked = sorted(((self._of(target), target) for target in targets), key=lambda one: one[0].ttft or math.inf)
        for index, (standing, _) in enumerate(ranked):
            if now - standing.looked > _LOOK_SECONDS:
                standing.looked = now
                ranked.insert(0, ranked.pop(index))
                break
        return [target for _, target in ranked]

    def retries(self, target: Target) -> Budget:
        """Returns the budget of extra attempts, which the targets of an integration share: overload is its vendor's."""
        return self._of(target).shared.retries

    def circuits(self) -> dict[str, Circuit]:
        """Returns every circuit that is not closed, by `provider` or `provider/model`, for metrics and tests."""
        circuits = {"/".join(key): standing.breaker.circuit for key, standing in self._targets.items()}
        circuits |= {provider: shared.breaker.circuit for provider, shared in self._shared.items()}
        return {name: circuit for name, circuit in circuits.items() if circuit is not Circuit.CLOSED}


def _log_opened(name: str, breaker: Breaker, now: float, opened: bool) -> None:
    if opened:
        log.warning(
            "circuit opened",
            extra={
                "circuit": name,
                "reason": reason_name(breaker.reason),
                "seconds": round(breaker.reopens_in(now), 3),
            },
        )


def _log_closed(name: str, closed: bool) -> None:
    if closed:
        log.info("circuit closed", extra={"circuit": name})
