"""The adapters the gateway can reach: over grpc, or inside its own process."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, Final

import grpc

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_gateway.config import IntegrationConfig
from sluice_kit.call import Call
from sluice_kit.channels import Calling, ChannelPool
from sluice_kit.config import ConfigDocument
from sluice_kit.errors import SluiceError, from_rpc_error, make_error
from sluice_kit.ports import COLOCATE_GROUP, Generator, GeneratorFactory, Send, SendStep
from sluice_kit.pump import Pump

log = logging.getLogger(__name__)

_SERVICE: Final = "/sluice.provider.v1.ProviderService/"
_MAX_REMOVED: Final = 1024
"""So many ids of integrations that were removed are remembered, the last ones."""


class RemoteGenerator:
    """An adapter in a process of its own."""

    def __init__(self, integration: str, channel: grpc.aio.Channel) -> None:
        self._integration = integration
        self._generate = channel.unary_stream(
            f"{_SERVICE}Generate", pb.GenerateRequest.SerializeToString, pb.GenerateResponse.FromString
        )
        # Its answer is a stream's batches joined, so it is read as one batch.
        self._generate_whole = channel.unary_unary(
            f"{_SERVICE}GenerateWhole", pb.GenerateWholeRequest.SerializeToString, pb.GenerateResponse.FromString
        )
        self._embed = channel.unary_unary(
            f"{_SERVICE}Embed", pb.EmbedRequest.SerializeToString, pb.EmbedResponse.FromString
        )
        self._rerank = channel.unary_unary(
            f"{_SERVICE}Rerank", pb.RerankRequest.SerializeToString, pb.RerankResponse.FromString
        )
        self._count_tokens = channel.unary_unary(
            f"{_SERVICE}CountTokens", pb.CountTokensRequest.SerializeToString, pb.CountTokensResponse.FromString
        )
        self._list_models = channel.unary_unary(
            f"{_SERVICE}ListModels", pb.ListModelsRequest.SerializeToString, pb.ListModelsResponse.FromString
        )
        self._get_status = channel.unary_unary(
            f"{_SERVICE}GetStatus", pb.GetStatusRequest.SerializeToString, pb.GetStatusResponse.FromString
        )
        self._sign_in = channel.unary_stream(
            f"{_SERVICE}SignIn", pb.SignInRequest.SerializeToString, pb.SignInResponse.FromString
        )

    async def start(self) -> None:
        """The channel connects when it is first used."""

    async def close(self) -> None:
        """The pool closes the channel."""

    async def generate(self, request: pb.GenerateRequest, call: Call, send: Send) -> None:
        if request.whole:
            whole = pb.GenerateWholeRequest(request=request)
            room = send(await self._unary(self._generate_whole, whole, call))
            if room is not None:
                await room
            return
        with Calling(call, _path(request)) as options:
            await self._stream(self._generate(request, **options), send)

    async def embed(self, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
        answer: pb.EmbedResponse = await self._unary(self._embed, request, call)
        return answer

    async def rerank(self, request: pb.RerankRequest, call: Call) -> pb.RerankResponse:
        answer: pb.RerankResponse = await self._unary(self._rerank, request, call)
        return answer

    async def count_tokens(self, request: pb.CountTokensRequest, call: Call) -> pb.CountTokensResponse:
        answer: pb.CountTokensResponse = await self._unary(self._count_tokens, request, call)
        return answer

    async def list_models(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        answer: pb.ListModelsResponse = await self._unary(self._list_models, request, call)
        return answer

    async def get_status(self, request: pb.GetStatusRequest, call: Call) -> pb.GetStatusResponse:
        answer: pb.GetStatusResponse = await self._unary(self._get_status, request, call)
        return answer

    async def sign_in(self, request: pb.SignInRequest, call: Call, send: SendStep) -> None:
        with Calling(call, _path(request)) as options:
            await self._stream(self._sign_in(request, **options), send)

    async def _stream(self, stream: Any, send: Callable[[Any], Awaitable[None] | None]) -> None:
        try:
            async with Pump(stream, send) as pump:
                await pump.wait()
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None

    async def _unary(self, method: Any, request: Any, call: Call) -> Any:
        try:
            with Calling(call, _path(request)) as options:
                return await method(request, **options)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None

    def _failure(self, error: grpc.aio.AioRpcError) -> SluiceError:
        failure = from_rpc_error(error, self._integration)
        if failure.reason == ErrorReason.ERROR_REASON_CANCELLED:
            # Of a call that is cancelled here no failure is left to read: it was the adapter, which stops.
            return make_error(
                ErrorReason.ERROR_REASON_SERVICE_UNREACHABLE,
                f"the {self._integration} service stopped in the midst of a call",
                metadata={"service": self._integration},
            )
        return failure


class RegisteredGenerator(RemoteGenerator):
    """An adapter that was registered at run time: it has a channel of its own, which ends with its last call."""

    def __init__(self, integration: str, channel: grpc.aio.Channel) -> None:
        super().__init__(integration, channel)
        self._channel = channel
        self._calls = 0
        self._idle: asyncio.Future[None] | None = None

    async def retire(self) -> None:
        """Lets the calls that are under way end, and closes the channel."""
        if self._calls:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle
        await self.close()

    async def close(self) -> None:
        """Ends the calls that are under way."""
        await self._channel.close(None)

    async def _stream(self, stream: Any, send: Callable[[Any], Awaitable[None] | None]) -> None:
        with self._call():
            await super()._stream(stream, send)

    async def _unary(self, method: Any, request: Any, call: Call) -> Any:
        with self._call():
            return await super()._unary(method, request, call)

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls and self._idle is not None and not self._idle.done():
                self._idle.set_result(None)


class Integration:
    """An adapter as the gateway knows it."""

    def __init__(self, integration: str, generator: Generator, placement: str, *, registered: bool = False) -> None:
        self.id = integration
        self.generator = generator
        self.placement = placement
        self.registered = registered
        """Whether it was registered at run time, and may be removed."""
        self.adapter = ""
        """Name of the adapter behind it, once it was asked."""
        self.probed: pb.GetStatusResponse | None = None
        """What the last probe told."""


class Integrations:
    """The adapters by id: those of the configuration, and those registered at run time."""

    def __init__(self, document: ConfigDocument, configs: dict[str, IntegrationConfig], channels: ChannelPool) -> None:
        self.generation = 0
        """Another number after each change of what there is, for whoever remembers something about it."""
        self._channels = channels
        self._by_id: dict[str, Integration] = {}
        self._retiring: dict[RegisteredGenerator, asyncio.Task[None]] = {}
        self._removed: dict[str, None] = {}
        for name, config in sorted(configs.items()):
            if (config.address is None) != config.colocate:
                raise document.error(f"gateway.integrations.{name}", "needs either address or colocate: true")
            if config.address is not None:
                generator: Generator = RemoteGenerator(name, channels.get(config.address, name))
                self._by_id[name] = Integration(name, generator, "process")
            else:
                self._by_id[name] = Integration(name, _colocated(document, name), "colocated")

    def __iter__(self) -> Iterator[Integration]:
        return iter([*self._by_id.values()])

    def __contains__(self, integration: str) -> bool:
        return integration in self._by_id

    def get(self, integration: str) -> Integration:
        """Returns one. Raises MODEL_NOT_FOUND if there is none of that id, naming those there are."""
        found = self._by_id.get(integration)
        if found is None:
            names = ", ".join(self._by_id) or "none"
            raise make_error(
                ErrorReason.ERROR_REASON_MODEL_NOT_FOUND,
                f"no integration '{integration}'; there are: {names}",
                metadata={"integration": integration},
            )
        return found

    def add(self, integration: str, address: str) -> Integration:
        """Adds one that was registered at run time. Its id must not be taken."""
        generator = RegisteredGenerator(integration, self._channels.open(address, integration))
        added = Integration(integration, generator, "process", registered=True)
        self._by_id = dict(sorted({**self._by_id, integration: added}.items()))
        self.generation += 1
        return added

    def was_removed(self, integration: str) -> bool:
        """Whether there was one of that id of late, registered at run time, and is none now."""
        return integration in self._removed and integration not in self._by_id

    def remove(self, integration: str) -> None:
        """Removes one that was registered. What it is being asked goes on to its end; nothing new is asked of it."""
        generator = self._by_id.pop(integration).generator
        assert isinstance(generator, RegisteredGenerator)  # no other is removed
        self._removed.pop(integration, None)
        self._removed[integration] = None
        if len(self._removed) > _MAX_REMOVED:
            del self._removed[next(iter(self._removed))]
        task = asyncio.get_running_loop().create_task(generator.retire(), name=f"retiring {integration}")
        self._retiring[generator] = task
        task.add_done_callback(lambda _: self._retiring.pop(generator, None))
        self.generation += 1

    @property
    def retiring(self) -> int:
        """How many were removed and still have calls under way."""
        return len(self._retiring)

    async def start(self) -> None:
        """Starts those inside this process."""
        await asyncio.gather(*(integration.generator.start() for integration in self))

    async def close(self) -> None:
        """Closes them."""
        retiring = list(self._retiring.items())
        for _, task in retiring:
            task.cancel()
        generators: list[Generator] = [integration.generator for integration in self]
        generators += [generator for generator, _ in retiring]
        await asyncio.gather(*(generator.close() for generator in generators))


def _path(request: Any) -> str:
    # The contract names every request after its method.
    return f"{_SERVICE}{type(request).__name__.removesuffix('Request')}"


def _colocated(document: ConfigDocument, integration: str) -> Generator:
    """Loads the factory by its entry point: the gateway imports no adapter, and needs none to be installed."""
    entries = list(entry_points(group=COLOCATE_GROUP))
    if not entries:
        raise document.error(
            f"gateway.integrations.{integration}.colocate",
            "no installed distribution offers adapters for the gateway's process; install sluice-providers",
        )
    factory: GeneratorFactory = entries[0].load()
    return factory(document, integration)
