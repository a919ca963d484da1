"""The servicer around an adapter: what every adapter needs and none should write.

It is the `Generator` that the gateway talks to: over grpc when `service` registers `face(servicer)`, and directly when
`colocate` returns it. It refuses or drops options the adapter cannot honour, names missing settings, guards the order
and the time of attempts, maps foreign exceptions at one seam, and remembers how the last attempt went.
"""

import asyncio
import functools
import logging
import math
import time
import traceback
import uuid
from collections.abc import Awaitable, Iterable
from types import SimpleNamespace
from typing import Final, TypeVar

from sluice.chat.v1 import event_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2, sign_in_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.errors import Reason, SluiceError, internal_error, make_error
from sluice_kit.ports import Generator, Send, SendStep
from sluice_kit.rpc import invalid_field
from sluice_providers import options
from sluice_providers.attempt import Attempt
from sluice_providers.base import Adapter, Settings
from sluice_providers.failures import from_exception
from sluice_providers.tracing import asking, tell_usage

log = logging.getLogger(__name__)
T = TypeVar("T")

# What says something about the vendor or our access to it, rather than about one request.
_VENDOR_REASONS: Final = frozenset(
    {
        ErrorReason.ERROR_REASON_INTEGRATION_MISCONFIGURED,
        ErrorReason.ERROR_REASON_UPSTREAM_AUTHENTICATION,
        ErrorReason.ERROR_REASON_UPSTREAM_PERMISSION,
        ErrorReason.ERROR_REASON_UPSTREAM_RATE_LIMITED,
        ErrorReason.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        ErrorReason.ERROR_REASON_UPSTREAM_OVERLOADED,
        ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE,
        ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT,
        ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
        ErrorReason.ERROR_REASON_EMPTY_RESPONSE,
    }
)
# With these an attempt made now may well succeed.
_PASSING: Final = frozenset(
    {
        ErrorReason.ERROR_REASON_UPSTREAM_RATE_LIMITED,
        ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
        ErrorReason.ERROR_REASON_EMPTY_RESPONSE,
    }
)
_MAX_PAGE: Final = 1000


class Servicer:
    """An adapter, made safe: implements `sluice_kit.ports.Generator`."""

    def __init__(self, integration: str, name: str, adapter: Adapter) -> None:
        self.integration = integration
        self.adapter_name = name
        self.adapter = adapter
        self._settings: Settings = adapter.settings
        self._last_error: Reason = ErrorReason.ERROR_REASON_UNSPECIFIED
        self._last_detail = ""

    async def start(self) -> None:
        """Gets the adapter ready."""
        await self.adapter.start()

    async def close(self) -> None:
        """Ends every connection."""
        await self.adapter.close()

    async def generate(self, request: pb.GenerateRequest, call: Call, send: Send) -> None:
        """Runs one attempt; see Generator."""
        self._require_settings()
        request, notices = self._fit(request)
        settings = self._settings
        attempt = Attempt(
            self.integration,
            request,
            send,
            notices=notices,
            # A whole answer has no first token to wait for: its deadline is its limit.
            ttft=math.inf if request.whole else settings.ttft_seconds,
            idle=settings.idle_seconds,
            deadline=call.deadline,
            queued=not request.whole and self.adapter.queues(request),
        )
        with asking(call, "chat", request.target.model, self.integration, self.adapter_name) as span:
            attempt.span = span
            await self._guarded(attempt.run(self.adapter.generate(request, attempt)))

    async def embed(self, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
        """Turns texts into vectors; see Generator."""
        self._require_settings()
        with asking(call, "embeddings", request.target.model, self.integration, self.adapter_name) as span:
            response = await self._within(self.adapter.embed(request), call)
            tell_usage(span, response.usage, response.model)
        if len(response.embeddings) != len(request.texts):
            raise self.adapter.error(
                ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
                f"{self.integration} returned {len(response.embeddings)} vectors for {len(request.texts)} texts",
            )
        return response

    async def rerank(self, request: pb.RerankRequest, call: Call) -> pb.RerankResponse:
        """Orders texts; see Generator."""
        self._require_settings()
        with asking(call, "rerank", request.target.model, self.integration, self.adapter_name):
            response = await self._within(self.adapter.rerank(request), call)
        indexes = [result.index for result in response.results]
        if len(set(indexes)) != len(indexes) or not all(0 <= index < len(request.texts) for index in indexes):
            raise self.adapter.error(
                ErrorReason.ERROR_REASON_UPSTREAM_PROTOCOL_ERROR,
                f"{self.integration} ranked texts twice, or texts that it was not given",
            )
        ranked = sorted(response.results, key=lambda result: -result.score)
        del response.results[:]
        response.results.extend(ranked[: request.top_n or None])
        return response

    async def count_tokens(self, request: pb.CountTokensRequest, call: Call) -> pb.CountTokensResponse:
        """Counts the tokens of a prompt; see Generator."""
        return await self._within(self.adapter.count_tokens(request), call)

    async def list_models(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        """Lists the models by id: those of the configuration, and those that the vendor lists."""
        after = request.page_token
        models: dict[str, model_pb2.Model] = {}
        if self._settings.discover and (not self.adapter.missing() or not self._settings.models):
            self._require_settings()
            models = {model.id: model for model in await self._discovered(call)}
        for static in self._settings.models:
            models[static.id] = _merged(models.get(static.id), static.message())
        names = sorted(name for name in models if name > after)
        size = request.page_size or _MAX_PAGE
        page = names[:size]
        token = page[-1] if len(names) > size else ""
        return pb.ListModelsResponse(models=[models[name] for name in page], next_page_token=token)

    async def _discovered(self, call: Call) -> list[model_pb2.Model]:
        try:
            return await self._within(self.adapter.list_models(), call)
        except SluiceError as error:
            if error.reason != ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE:
                raise
            # What is found in another way makes the vendor no more reachable: the status keeps its failure.
            found = await self.adapter.models_without_vendor()
            if not found:
                raise
            return found

    async def get_status(self, request: pb.GetStatusRequest, call: Call) -> pb.GetStatusResponse:
        """Says how the adapter and its vendor are; never fails for the vendor's sake."""
        response = pb.GetStatusResponse(adapter=self.adapter_name, missing_settings=self.adapter.missing())
        if response.missing_settings:
            response.last_error = ErrorReason.ERROR_REASON_INTEGRATION_MISCONFIGURED
            response.detail = _missing_text(self.integration, response.missing_settings)
            return response
        if request.probe:
            began = time.perf_counter()
            try:
                response.version = await self._within(self.adapter.ping(), call)
            except SluiceError as error:
                log.info("probe failed", extra={"integration": self.integration, "reason": error.reason_name})
                self._remember(error)
            response.latency.FromNanoseconds(round((time.perf_counter() - began) * 1e9))
        unset = ErrorReason.ERROR_REASON_UNSPECIFIED
        response.available = self._last_error == unset or self._last_error in _PASSING
        if self._last_error != unset:
            response.last_error = self._last_error
        response.detail = self._last_detail
        return response

    async def sign_in(self, request: pb.SignInRequest, call: Call, send: SendStep) -> None:
        """Signs in at the vendor; see Generator."""

        async def show(challenge: sign_in_pb2.SignInChallenge) -> None:
            await _sent(send(pb.SignInResponse(step=sign_in_pb2.SignInStep(challenge=challenge))))

        try:
            # What fails here says nothing about a credential that is there already.
            async with asyncio.timeout_at(call.deadline) as scope:
                account = await self._guarded(self.adapter.sign_in(show), remember=False)
        except TimeoutError:
            if not scope.expired():
                raise
            raise make_error(ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, "the call's deadline passed") from None
        await _sent(send(pb.SignInResponse(step=sign_in_pb2.SignInStep(done=sign_in_pb2.SignInDone(account=account)))))

    async def _within(self, work: Awaitable[T], call: Call) -> T:
        """Awaits a call that is no stream, under the deadline and the integration's own limit."""
        seconds = self._settings.call_seconds
        left = call.time_remaining()
        by_caller = left is not None and left < seconds
        scope = asyncio.timeout(left if by_caller else seconds)

        async def limited() -> T:
            try:
                async with scope:
                    return await work
            except TimeoutError:
                if not scope.expired():
                    raise
            if by_caller:
                raise make_error(ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, "the call's deadline passed")
            raise self.adapter.error(
                ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT,
                f"{self.integration} did not answer within {seconds:g} s",
                limit="total",
            )

        return await self._guarded(limited())

    async def _guarded(self, work: Awaitable[T], *, remember: bool = True) -> T:
        """The one seam at which foreign exceptions become ours."""
        try:
            result = await work
        except SluiceError as error:
            if remember:
                self._remember(error)
            raise
        except Exception as error:  # noqa: BLE001 - the seam: what is not known is logged under an id, never passed on
            failure = self.adapter.failure(error) or from_exception(error, self.integration) or _defect(error)
            if remember:
                self._remember(failure)
            raise failure from None
        self._last_error = ErrorReason.ERROR_REASON_UNSPECIFIED
        self._last_detail = ""
        return result

    def _remember(self, error: SluiceError) -> None:
        if error.reason in _VENDOR_REASONS:
            self._last_error = error.reason
            self._last_detail = error.message

    def _require_settings(self) -> None:
        missing = self.adapter.missing()
        if missing:
            text = _missing_text(self.integration, missing)
            raise self.adapter.error(
                ErrorReason.ERROR_REASON_INTEGRATION_MISCONFIGURED, text, setting=", ".join(missing)
            )

    def _fit(self, request: pb.GenerateRequest) -> tuple[pb.GenerateRequest, list[event_pb2.Event]]:
        """Checks the request's options. Returns what the adapter gets, and a Notice for each option dropped."""
        names = options.requested(request)
        refused = self.adapter.unsupported(request, names) if names else ()
        if not refused:
            return request, []
        final = [name for name in refused if not options.is_tuning(name)]
        if final or not request.lenient:
            option = (final or list(refused))[0]
            model = request.target.model
            error = invalid_field(option, f"{self.integration} cannot honour this option with the model {model}")
            error.reason = ErrorReason.ERROR_REASON_UNSUPPORTED_OPTION
            error.metadata = {"option": option, "provider": self.integration}
            raise error
        return options.without(request, refused), [_dropped(name) for name in refused]


async def _sent(room: Awaitable[None] | None) -> None:
    if room is not None:
        await room


def _missing_text(integration: str, names: Iterable[str]) -> str:
    return f"{integration} is not configured: set {', '.join(names)}"


def _dropped(name: str) -> event_pb2.Event:
    notice = event_pb2.Notice(
        code=event_pb2.NOTICE_CODE_OPTION_DROPPED,
        message=f"the option {name} is not supported here and was left out",
        metadata={"option": name},
    )
    return event_pb2.Event(notice=notice)


def _merged(found: model_pb2.Model | None, static: model_pb2.Model) -> model_pb2.Model:
    """Joins what the vendor says of a model with what the configuration says, which wins."""
    if found is None:
        return static
    merged = model_pb2.Model()
    merged.CopyFrom(found)
    if static.capabilities:
        del merged.capabilities[:]
    merged.MergeFrom(static)
    return merged


def _defect(error: Exception) -> SluiceError:
    """Logs an unexpected exception under an id: where it arose, but not its text, which may quote a vendor."""
    error_id = uuid.uuid4().hex[:12]
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error(
        "unexpected exception in an adapter",
        extra={"error_id": error_id, "exception_type": type(error).__qualname__, "frames": frames},
    )
    return internal_error(error_id)


async def _generate_whole(generator: Generator, request: pb.GenerateWholeRequest, call: Call) -> bytes:
    """Runs one attempt and returns its events as one message."""
    request.request.whole = True
    batches: list[bytes] = []

    def take(batch: pb.GenerateResponse) -> None:
        batches.append(batch.SerializeToString())

    await generator.generate(request.request, call, take)
    # A GenerateWholeResponse: both messages hold nothing but the events, in the same field, and such fields join.
    return b"".join(batches)


def face(generator: Generator) -> SimpleNamespace:
    """Returns the RPCs of ProviderService, by their names in the contract, as the kit's dispatcher wants them."""
    return SimpleNamespace(
        Generate=generator.generate,
        GenerateWhole=functools.partial(_generate_whole, generator),
        Embed=generator.embed,
        Rerank=generator.rerank,
        CountTokens=generator.count_tokens,
        ListModels=generator.list_models,
        GetStatus=generator.get_status,
        SignIn=generator.sign_in,
    )
