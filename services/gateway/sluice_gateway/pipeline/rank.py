"""Rank: in which order the targets of a route are tried for one request."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1.chat_service_pb2 import ChatSpec
from sluice.provider.v1.model_pb2 import Capability
from sluice_gateway.catalog import Catalog
from sluice_gateway.config import RouteConfig
from sluice_gateway.pipeline.needs import Need, lacking, refusal
from sluice_gateway.pipeline.plan import Plan
from sluice_gateway.pipeline.settle import Prices
from sluice_gateway.pipeline.standing import Standings

_BYTES_PER_TOKEN: Final = 4
_UNSUPPORTED_OPTION: Final = ErrorReason.ERROR_REASON_UNSUPPORTED_OPTION
_OUTPUT_TOKENS: Final = 500
"""What an answer is taken to have where the request sets no limit."""


class Ranking:
    """Orders targets as their route says. One for the whole gateway."""

    def __init__(self, standings: Standings, prices: Prices, catalog: Catalog) -> None:
        self._standings = standings
        self._prices = prices
        self._catalog = catalog

    def choose(self, plan: Plan, spec: ChatSpec, needs: Sequence[Need]) -> Plan:
        """Returns a plan with its targets in the order in which they are tried, without those that are known not to have
        what the request needs.

        Raises UNSUPPORTED_OPTION if none has it.
        """
        limits = plan.limits
        if isinstance(limits, RouteConfig) and (limits.order != "ordered" or limits.needs) and not plan.substituted:
            plan = replace(plan, targets=self.ranked(plan.targets[: plan.own], limits, spec) + plan.targets[plan.own :])
        if not needs:
            return plan
        if plan.default:
            default = (target for target in plan.default if lacking(self._catalog, target, needs) is None)
            plan = replace(plan, default=tuple(default))
        lacks = {index: lacking(self._catalog, target, needs) for index, target in enumerate(plan.targets)}
        able = tuple(target for index, target in enumerate(plan.targets) if lacks[index] is None)
        if not able:
            need = lacks[0]
            assert need is not None  # each lacks something
            raise refusal(plan.targets[0], need)
        if lacks[0] is None or plan.passed is not None:
            return replace(plan, targets=able)
        return replace(plan, targets=able, passed=(plan.targets[0], _UNSUPPORTED_OPTION))

    def ranked(self, targets: tuple[Target, ...], route: RouteConfig, spec: ChatSpec) -> tuple[Target, ...]:
        """Returns the targets of a route that can do what it needs, the one to try first at the front."""
        able = [target for target in targets if self._is_able(target, route)] or list(targets)
        if route.order == "fastest":
            able = self._standings.fastest_first(able)
        elif route.order == "cheapest":
            size = sum(len(part.text) for message in spec.messages for part in message.parts)
            size += len(spec.system_instruction)
            read, written = size // _BYTES_PER_TOKEN, spec.parameters.max_output_tokens or _OUTPUT_TOKENS
            able.sort(key=lambda target: self._likely_cost(target, read, written))
        return tuple(able)

    def _is_able(self, target: Target, route: RouteConfig) -> bool:
        if not route.needs:
            return True
        known = self._catalog.capabilities(target)
        return known is None or all(Capability.Value(f"CAPABILITY_{name.upper()}") in known for name in route.needs)

    def _likely_cost(self, target: Target, read: int, written: int) -> float:
        price = self._prices.of(target)
        return math.inf if price is None else read * price.input + written * price.output
