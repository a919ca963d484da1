"""Catalog: what models there are and what they can do, as the integrations say, remembered for a short while."""

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from sluice.chat.v1.target_pb2 import Target
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1.model_pb2 import Capability, Model
from sluice.provider.v1.provider_service_pb2 import ListModelsRequest
from sluice_gateway.config import CatalogConfig
from sluice_gateway.integrations import Integration, Integrations
from sluice_kit.call import Call
from sluice_kit.errors import SluiceError, internal_error, make_error
from sluice_kit.ids import new_id

log = logging.getLogger(__name__)

_METHOD: Final = "/sluice.gateway.v1.ModelService/ListModels"
_FETCH_SECONDS: Final = 30.0
"""Longest that an integration is asked, whoever has stopped waiting for it by then."""
_FAILURE_SHARE: Final = 0.1
"""A failure is remembered for this share of the age: whoever sets what is missing wants to see it."""
_EARLY: Final = (0.6, 0.9)
"""A list in use is fetched again at a random point of its age between these, so that nobody waits for it and the
integrations are not all asked at once."""
_USED_AGES: Final = 2.0
"""A list that nobody wanted for so many ages is no longer in use."""
_LOOKUP_SECONDS: Final = 300.0
"""What a model can do changes rarely: a lookup of that takes a list which is so old as it is."""
_LOOKUP_FAILED_SECONDS: Final = 10.0
"""After so long a lookup has an integration asked again that did not answer."""
_MAX_PAGES: Final = 100
_VAGUE: Final = frozenset({Capability.CAPABILITY_STREAMING, Capability.CAPABILITY_ASSISTANT_PREFILL})
"""What a list that knows little of a model says of it all the same."""


class _Entry:
    """What is known of one integration's models."""

    __slots__ = ("asked", "claims", "failure", "fetch", "fetched", "models", "timer", "used")

    def __init__(self) -> None:
        self.models: Mapping[str, Model] | None = None
        """Of the last list that came, by id; it stays when a later one does not come."""
        self.claims: frozenset[int] = frozenset()
        """What any of them can do."""
        self.failure: SluiceError | None = None
        """Why the newest list did not come."""
        self.asked = self.fetched = self.used = float("-inf")
        self.fetch: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Catalog:
    """The models of every integration. One per gateway, for the event loop's thread.

    A list is fetched when it is first wanted, shared by all who want it meanwhile, and good for `age_seconds`; while it
    is in use it is fetched anew before that is over. It belongs to no tenant: it is what the mesh's own credentials see.
    `invalidate` forgets one, for instance when its integration was signed in.

    For whoever plans an answer: `capabilities(target)`, `known(target)`, `lacks(target, capability)`.
    """

    def __init__(
        self, integrations: Integrations, config: CatalogConfig, draw: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._integrations = integrations
        self._config = config
        self._draw = draw
        self._entries: dict[str, _Entry] = {}
        self._fetches: set[asyncio.Task[None]] = set()

    def capabilities(self, target: Target) -> frozenset[int] | None:
        """Returns what a target can do, as values of `sluice.provider.v1.Capability`; None if that is not known.

        None is not "nothing": the integration was not asked yet, does not answer, or does not list the model. Returns at
        once and never raises; what is not known is asked for in the background, so that a later lookup may know it. Use
        `find` to wait for it. A list of some minutes is good enough here, and one whose integration is down now is, too.
        """
        if target.provider not in self._integrations:
            return None
        entry = self._entry(target.provider)
        if self._age(entry) > (_LOOKUP_SECONDS if entry.failure is None else _LOOKUP_FAILED_SECONDS):
            self._begin(self._integrations.get(target.provider), entry)
        model = (entry.models or {}).get(target.model)
        return None if model is None else frozenset(model.capabilities)

    def known(self, target: Target) -> Model | None:
        """Returns a target as its integration listed it, if that was asked already; None if not. Asks nobody."""
        entry = self._entries.get(target.provider)
        return None if entry is None or entry.models is None else entry.models.get(target.model)

    def lacks(self, target: Target, capability: int) -> bool:
        """Whether a target is known not to be able to do something.

        A list claims what is known and no more, so that a missing claim is no denial by itself. It is one where the list
        speaks of that at all, for another of its models, and says more of this one than that it answers. Returns at once
        and never raises, as `capabilities` does.
        """
        known = self.capabilities(target)
        if known is None or capability in known or known <= _VAGUE:
            return False
        return capability in self._entry(target.provider).claims

    async def find(self, target: Target, call: Call) -> Model | None:
        """Returns a target as its integration lists it, None if it does not; waits for the list if need be.

        Raises MODEL_NOT_FOUND for an unknown integration, or what hinders this one from listing.
        """
        [(_, answer)] = await self.models([self._integrations.get(target.provider)], call)
        if isinstance(answer, SluiceError):
            raise answer
        return next((model for model in answer if model.id == target.model), None)

    async def models(
        self, asked: Iterable[Integration], call: Call, *, refresh: bool = False
    ) -> Sequence[tuple[Integration, Sequence[Model] | SluiceError]]:
        """Returns the models of integrations, or why one does not list them: one that is down hides no other.

        All are asked at once, and waited for at most `ask_seconds` and the call's deadline. With `refresh` they are
        asked even if what is known is not old.
        """
        wanted = [(integration, self._entry(integration.id)) for integration in asked]
        waiting: list[asyncio.Task[None]] = []
        now = asyncio.get_running_loop().time()
        for integration, entry in wanted:
            entry.used = now
            if refresh or not self._is_fresh(entry):
                self._begin(integration, entry)
                if entry.fetch is not None:
                    waiting.append(entry.fetch)
            elif entry.timer is None and entry.fetch is None:
                self._plan(integration, entry)
        if waiting:
            limited = call.with_timeout(self._config.ask_seconds)
            # The fetches are everybody's: neither this call's time limit nor its end stops them.
            await asyncio.wait(waiting, timeout=limited.time_remaining())
        return [(integration, self._answer(integration, entry)) for integration, entry in wanted]

    def invalidate(self, integration: str) -> None:
        """Forgets what is known of an integration; what is being fetched now is for those alone who wait for it."""
        entry = self._entries.pop(integration, None)
        if entry is not None and entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    async def close(self) -> None:
        """Ends what runs and waits for it."""
        for name in list(self._entries):
            self.invalidate(name)
        for fetch in self._fetches:
            fetch.cancel()
        if self._fetches:
            await asyncio.wait(self._fetches)

    def _entry(self, integration: str) -> _Entry:
        entry = self._entries.get(integration)
        if entry is None:
            entry = self._entries[integration] = _Entry()
        return entry

    def _age(self, entry: _Entry) -> float:
        return asyncio.get_running_loop().time() - entry.asked

    def _is_fresh(self, entry: _Entry) -> bool:
        if entry.fetched < entry.asked:
            return False
        share = 1.0 if entry.failure is None else _FAILURE_SHARE
        return self._age(entry) < share * self._config.age_seconds

    def _answer(self, integration: Integration, entry: _Entry) -> Sequence[Model] | SluiceError:
        if entry.fetched < entry.asked:
            if entry.models is not None and entry.failure is None:
                return list(entry.models.values())  # slow this time: what it said last is better than nothing
            return _silent(integration)
        if entry.failure is not None:
            return entry.failure
        return list((entry.models or {}).values())

    def _begin(self, integration: Integration, entry: _Entry) -> None:
        """Has a list fetched, unless it is being fetched."""
        if entry.fetch is None:
            loop = asyncio.get_running_loop()
            entry.asked = loop.time()
            # In a context of its own: it works for everybody, not for the call that happened to be first.
            entry.fetch = loop.create_task(
                self._fetch(integration, entry), name=f"models of {integration.id}", context=contextvars.Context()
            )
            self._fetches.add(entry.fetch)
            entry.fetch.add_done_callback(self._fetches.discard)

    async def _fetch(self, integration: Integration, entry: _Entry) -> None:
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                models = await _list(integration, Call(_METHOD).with_timeout(_FETCH_SECONDS))
        except TimeoutError:
            entry.failure = _silent(integration)
        except SluiceError as error:
            # It is kept and given to many; the frames it came through must not be kept with it.
            # Nobody cancels a fetch but the gateway's own end: an adapter that says so stops.
            stopped = error.reason == ErrorReason.ERROR_REASON_CANCELLED
            entry.failure = _stopped(integration) if stopped else error
            error.__traceback__ = error.__cause__ = error.__context__ = None
        except Exception:
            error_id = new_id()[:12]
            log.exception("models cannot be listed", extra={"error_id": error_id, "integration": integration.id})
            entry.failure = internal_error(error_id)
        else:
            entry.models = {model.id: model for model in models}
            entry.claims = frozenset(capability for model in models for capability in model.capabilities)
            entry.failure = None
        finally:
            entry.fetch = None
        entry.fetched = asyncio.get_running_loop().time()
        if self._entries.get(integration.id) is entry:
            self._plan(integration, entry)

    def _plan(self, integration: Integration, entry: _Entry) -> None:
        """Has a list fetched again before it is too old, if it is in use."""
        age = self._config.age_seconds
        loop = asyncio.get_running_loop()
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if age > 0 and loop.time() - entry.used <= _USED_AGES * age:
            entry.timer = loop.call_at(entry.asked + self._draw(*_EARLY) * age, self._again, integration, entry)

    def _again(self, integration: Integration, entry: _Entry) -> None:
        entry.timer = None
        if asyncio.get_running_loop().time() - entry.used <= _USED_AGES * self._config.age_seconds:
            self._begin(integration, entry)


async def _list(integration: Integration, call: Call) -> Sequence[Model]:
    models: list[Model] = []
    token = ""
    for _ in range(_MAX_PAGES):
        answer = await integration.generator.list_models(ListModelsRequest(page_token=token), call)
        models.extend(answer.models)
        token = answer.next_page_token
        if not token:
            return models
    raise make_error(
        ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
        f"{integration.id} lists models without an end",
        metadata={"provider": integration.id},
    )


def _stopped(integration: Integration) -> SluiceError:
    return make_error(
        ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE,
        f"{integration.id} stopped before it had listed its models",
        metadata={"service": integration.id},
    )


def _silent(integration: Integration) -> SluiceError:
    return make_error(
        ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT,
        f"{integration.id} did not list its models in time",
        metadata={"provider": integration.id},
    )
