"""Plan: from the model a request names to the targets that will be tried, in order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from google.protobuf.json_format import ParseDict, ParseError

from sluice.chat.v1.parameters_pb2 import GenerationParameters
from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_gateway.config import GatewayConfig, RouteConfig, RoutePolicy
from sluice_gateway.integrations import Integrations
from sluice_kit.config import ConfigDocument
from sluice_kit.errors import Reason, SluiceError, make_error
from sluice_kit.rpc import validate

_MAX_PLANS: Final = 1024
"""Callers may name any model, so what is remembered is bounded."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The targets of one answer, how long it may take and how it is kept going. `targets` is never empty.

    One plan may be many requests': nothing in it is changed.
    """

    targets: tuple[Target, ...]
    limits: RoutePolicy
    own: int = 1
    """How many targets, at the front, are those of the route; the others are the request's fallbacks."""
    parameters: GenerationParameters | None = None
    """What the route sets where the request does not."""
    passed: tuple[Target, Reason] | None = None
    """A target that was passed over for the first one, and why."""
    default: tuple[Target, ...] = ()
    """Those of the operator's default model, for when none of `targets` can be used."""
    substituted: bool = False
    """Whether that is so already, and `targets` are the default model's."""

    def substitute(self, target: Target, reason: Reason) -> "Plan":
        """Returns the plan with the default model in place of its targets: `target` cannot be used, for `reason`."""
        return replace(self, targets=self.default, own=0, passed=(target, reason), default=(), substituted=True)


class Routes:
    """The route table of one configuration, checked as a whole: what is wrong with it raises ConfigError."""

    def __init__(self, document: ConfigDocument, config: GatewayConfig) -> None:
        self.limits = config.limits
        self.default = config.default_route
        _check_policy(document, "gateway.limits", config.limits)
        self.parameters: dict[str, GenerationParameters] = {}
        self.table: dict[str, tuple[tuple[Target, ...], RouteConfig]] = {}
        for alias, route in sorted(config.routes.items()):
            path = f"gateway.routes.{alias}"
            if "/" in alias or not alias:
                raise document.error(path, "an alias must not be empty or hold a slash")
            _check_policy(document, path, route)
            targets = []
            for text in route.targets:
                target = parse_target(text)
                if target is None:
                    raise document.error(f"{path}.targets", f"'{text}' is not of the form provider/model")
                targets.append(target)
            unique = {(target.provider, target.model): target for target in targets}
            self.table[alias] = (tuple(unique.values()), route)
            if route.parameters:
                self.parameters[alias] = _parameters(document, path, route.parameters)
        if config.default_route not in self.table:
            raise document.error("gateway.default_route", f"no route '{config.default_route}'")
        self.default_model: tuple[Target, ...] = ()
        if config.default_model is not None:
            model = parse_target(config.default_model)
            if config.default_model in self.table:
                self.default_model, _ = self.table[config.default_model]
            elif model is not None:
                self.default_model = (model,)
            else:
                raise document.error("gateway.default_model", "neither a route nor of the form provider/model")


class Planner:
    """Plans answers by the route table."""

    def __init__(self, document: ConfigDocument, config: GatewayConfig, integrations: Integrations) -> None:
        self._integrations = integrations
        self._routes = Routes(document, config)
        self._plans: dict[str, Plan] = {}
        """What was planned for names without fallbacks, by this table and these integrations."""
        self._generation = integrations.generation

    def take(self, routes: Routes) -> None:
        """Plans by another table from now on; what was planned goes on as it was."""
        self._routes = routes
        self._plans.clear()

    @property
    def default_alias(self) -> str:
        """The alias used where a request names no model."""
        return self._routes.default

    def routes(self) -> Mapping[str, tuple[tuple[Target, ...], RouteConfig]]:
        """Returns every alias with its targets and limits."""
        return self._routes.table

    def plan(self, model: str, fallbacks: Iterable[str] = ()) -> Plan:
        """Returns what to try for a model and its fallbacks. Raises MODEL_NOT_FOUND.

        The same target is tried once; the limits are those of the first name.
        """
        name = model or self._routes.default
        targets, limits = self._resolve(name)
        own = len(targets)
        for fallback in fallbacks:
            more, _ = self._resolve(fallback)
            targets += more
        unique: dict[tuple[str, str], Target] = {}
        for target in targets:
            unique.setdefault((target.provider, target.model), target)
        return Plan(tuple(unique.values()), limits, own, self._routes.parameters.get(name))

    def plan_answer(self, model: str, fallbacks: Sequence[str] = ()) -> Plan:
        """As `plan`, but where the operator has set a default model it is in the plan, too.

        Then it also stands in for a name all of whose integrations this gateway does not have (any more): a route's, or
        one that was removed. A name that was never good is MODEL_NOT_FOUND as ever.
        """
        if fallbacks:
            return self._plan_answer(model, fallbacks)
        if self._generation != self._integrations.generation:
            self._generation = self._integrations.generation
            self._plans.clear()
        plan = self._plans.get(model)
        if plan is None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[model] = self._plan_answer(model, ())
        return plan

    def _plan_answer(self, model: str, fallbacks: Iterable[str]) -> Plan:
        default = tuple(target for target in self._routes.default_model if target.provider in self._integrations)
        if not default:
            return self.plan(model, fallbacks)
        names = [model or self._routes.default, *fallbacks]
        gone = {name: target for name in names if (target := self._gone(name)) is not None}
        there = [name for name in names if name not in gone]
        plan = self.plan(there[0], there[1:]) if there else Plan(default, self._limits(names[0]), 0)
        rest = tuple(target for target in default if target not in plan.targets)
        first = gone.get(names[0])
        if first is None:
            return replace(plan, default=rest)
        return replace(
            plan,
            limits=self._limits(names[0]),
            own=0,
            parameters=self._routes.parameters.get(names[0]),
            passed=(first, ErrorReason.ERROR_REASON_MODEL_NOT_FOUND),
            default=rest,
            substituted=not there,
        )

    def _gone(self, name: str) -> Target | None:
        """Returns the target of a name that cannot be used because its integration is not there; None for others."""
        route = self._routes.table.get(name)
        if route is not None:
            targets, _ = route
            return None if any(target.provider in self._integrations for target in targets) else targets[0]
        target = parse_target(name)
        return target if target is not None and self._integrations.was_removed(target.provider) else None

    def _limits(self, name: str) -> RoutePolicy:
        route = self._routes.table.get(name)
        return self._routes.limits if route is None else route[1]

    def _resolve(self, name: str) -> tuple[tuple[Target, ...], RoutePolicy]:
        route = self._routes.table.get(name)
        if route is not None:
            targets, config = route
            known = tuple(target for target in targets if target.provider in self._integrations)
            if not known:
                # The route is the operator's; it may name integrations that this gateway does not have.
                self._integrations.get(targets[0].provider)
            return known, config
        target = parse_target(name)
        if target is None:
            raise self._unknown(name)
        self._integrations.get(target.provider)
        return (target,), self._routes.limits

    def _unknown(self, name: str) -> SluiceError:
        aliases = ", ".join(self._routes.table)
        return make_error(
            ErrorReason.ERROR_REASON_MODEL_NOT_FOUND,
            f"no route {name!r}; name a route ({aliases}) or provider/model",
            metadata={"model": name},
        )


def _check_policy(document: ConfigDocument, path: str, policy: RoutePolicy) -> None:
    if (policy.commit_window_seconds > 0) != (policy.min_tokens_per_second > 0):
        raise document.error(path, "commit_window_seconds and min_tokens_per_second go together")


def _parameters(document: ConfigDocument, path: str, parameters: dict[str, Any]) -> GenerationParameters:
    for name, value in parameters.items():
        one = GenerationParameters()
        try:
            ParseDict({name: value}, one)
            validate(one)
        except ParseError:
            raise document.error(f"{path}.parameters.{name}", "no such parameter, or not of its type") from None
        except SluiceError as error:
            what = error.violations[0].description if error.violations else error.message
            raise document.error(f"{path}.parameters.{name}", what) from None
    return ParseDict(parameters, GenerationParameters())


def parse_target(text: str) -> Target | None:
    """Returns the target that `provider/model` names; the model may hold slashes. None if it is not of that form.

    Names of models stand in the ledger, in logs and on terminals, so they hold no control characters.
    """
    provider, slash, model = text.partition("/")
    if not slash or not provider or not model or len(provider) > 64 or len(model) > 256 or not text.isprintable():
        return None
    return Target(provider=provider, model=model)
