"""Settle: what each attempt used and cost, and the one `Completed` that says so."""

from collections.abc import Sequence
from typing import Final

from sluice.chat.v1.event_pb2 import Completed
from sluice.chat.v1.target_pb2 import Target
from sluice.chat.v1.usage_pb2 import Usage, UsageSource
from sluice.provider.v1.provider_service_pb2 import GenerateRequest
from sluice_gateway.config import GatewayConfig, PriceConfig
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_kit.config import ConfigDocument

# Looked up once: the enums of protobuf resolve a name anew each time.
_UNSPECIFIED: Final = UsageSource.USAGE_SOURCE_UNSPECIFIED
_ESTIMATED: Final = UsageSource.USAGE_SOURCE_ESTIMATED
_PARTIAL: Final = UsageSource.USAGE_SOURCE_PARTIAL
_PROVIDER: Final = UsageSource.USAGE_SOURCE_PROVIDER

_BYTES_PER_TOKEN: Final = 4
"""Of English text and code, for every current tokenizer within about a third."""
_NANO_PER_TOKEN: Final = 1000
"""One US dollar for a million tokens is a thousand nano-dollars for one."""
_NANO_PER_THOUSAND: Final = 1000 * _NANO_PER_TOKEN
_MAX_RATE: Final = 10**11
"""Ten cents for a token: with more than that a database's integers might not hold the cost of a long text."""


class Prices:
    """The configured prices, by target."""

    def __init__(self, document: ConfigDocument, config: GatewayConfig) -> None:
        self._by_target: dict[tuple[str, str], PriceConfig] = {}
        for name, price in config.prices.items():
            provider, slash, model = name.partition("/")
            if not slash or not provider or not model:
                raise document.error(f"gateway.prices.{name}", "expected provider/model")
            self._by_target[provider, model] = price
        self._rates = {target: (_rate(price.input), _rate(price.output)) for target, price in self._by_target.items()}

    def take(self, other: "Prices") -> None:
        """Counts by other prices from now on."""
        self._by_target, self._rates = other._by_target, other._rates  # noqa: SLF001 - of the same class

    def of(self, target: Target) -> PriceConfig | None:
        """Returns the price of a target; None if there is none."""
        return self._by_target.get((target.provider, target.model))

    def rates(self, target: Target) -> tuple[int, int] | None:
        """Returns what a thousand tokens read, and generated, cost in nano-US-dollars; None without a price."""
        return self._rates.get((target.provider, target.model))

    def cost(self, attempt: AttemptRecord) -> int | None:
        """Returns the cost in nano-US-dollars, rounded to the nearest; None without a price."""
        price = self.of(attempt.target)
        if price is None:
            return None
        usage = attempt.usage
        cached_price = price.input if price.cached_input is None else price.cached_input
        fresh = usage.input_tokens - usage.cached_input_tokens
        dollars_per_million = (
            fresh * price.input + usage.cached_input_tokens * cached_price + usage.output_tokens * price.output
        )
        return round(dollars_per_million * _NANO_PER_TOKEN)


def _rate(price: float) -> int:
    return round(min(price * _NANO_PER_THOUSAND, _MAX_RATE))


def settle_attempt(attempt: AttemptRecord, final: Usage | None, request: GenerateRequest, prices: Prices) -> None:
    """Fixes what an attempt used and cost.

    `final` is the usage in the attempt's `Completed`. Without it: what the vendor reported before it broke off counts
    as PARTIAL, and if it reported nothing the texts are counted, as ESTIMATED.
    """
    if final is not None and final.source != _UNSPECIFIED:
        attempt.usage.CopyFrom(final)
    elif attempt.usage.source == _UNSPECIFIED:
        if attempt.ttft is not None:
            attempt.usage.input_tokens = _estimate(request)
            attempt.usage.output_tokens = -(-attempt.output_bytes // _BYTES_PER_TOKEN)
        attempt.usage.source = _ESTIMATED
    elif final is None:
        attempt.usage.source = _PARTIAL
    attempt.cost_nano_usd = prices.cost(attempt)


def _estimate(request: GenerateRequest) -> int:
    """Estimates the tokens of a prompt from the bytes of its texts."""
    size = len(request.system_instruction) + len(request.grounding_instruction)
    size += sum(len(part.text) for message in request.messages for part in message.parts)
    size += sum(len(passage.text) for passage in request.passages)
    return -(-size // _BYTES_PER_TOKEN)


def settle_response(upstream: Completed, attempts: Sequence[AttemptRecord]) -> Completed:
    """Returns the response's `Completed`: the finish of the last attempt, usage and cost of all of them."""
    completed = Completed(finish_reason=upstream.finish_reason, raw_finish_reason=upstream.raw_finish_reason)
    completed.usage.CopyFrom(total_usage(attempts))
    for attempt in attempts:
        attempt.describe(completed.attempts.add())
    costs = [attempt.cost_nano_usd for attempt in attempts]
    if all(cost is not None for cost in costs):
        completed.cost_nano_usd = sum(cost for cost in costs if cost is not None)
    return completed


# A sum is only as good as its worst part.
_WORST_FIRST: Final = (
    _PARTIAL,
    _ESTIMATED,
    _PROVIDER,
)


def total_usage(attempts: Sequence[AttemptRecord]) -> Usage:
    """Returns the tokens of all attempts together."""
    if len(attempts) == 1:
        return attempts[0].usage
    sources = {attempt.usage.source for attempt in attempts}
    return Usage(
        input_tokens=sum(attempt.usage.input_tokens for attempt in attempts),
        cached_input_tokens=sum(attempt.usage.cached_input_tokens for attempt in attempts),
        output_tokens=sum(attempt.usage.output_tokens for attempt in attempts),
        reasoning_tokens=sum(attempt.usage.reasoning_tokens for attempt in attempts),
        source=next((source for source in _WORST_FIRST if source in sources), _UNSPECIFIED),
    )
