"""What the gateway asks of a model adapter, whatever lies between them.

The gateway knows adapters as `Generator`s. One implementation speaks grpc to an adapter's own process; another is the
adapter's servicer itself, in the gateway's process (`colocate`). The messages are the same, so the contract suite runs
over both.
"""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.config import ConfigDocument

COLOCATE_GROUP: Final = "sluice.colocate"
"""Entry-point group of factories that make Generators for the gateway's own process. A factory is called with the
configuration and the id of the integration: `create(document, integration) -> Generator`."""

Send = Callable[[pb.GenerateResponse], Awaitable[None] | None]
"""Takes one batch. What it returns, if anything, is awaited before the next one: backpressure."""

SendStep = Callable[[pb.SignInResponse], Awaitable[None] | None]
"""Takes one step of a sign-in, in the same way."""


class Generator(Protocol):
    """An adapter in front of a vendor. Failures are raised as SluiceError."""

    async def start(self) -> None:
        """Gets ready. A missing credential is not an error here."""

    async def close(self) -> None:
        """Ends every connection."""

    async def generate(self, request: pb.GenerateRequest, call: Call, send: Send) -> None:
        """Runs one attempt: hands `Started` first and `Completed` last to `send`, then returns.

        Cancelling the task closes the connection to the vendor.
        """

    async def embed(self, request: pb.EmbedRequest, call: Call) -> pb.EmbedResponse:
        """Turns texts into vectors, in order."""

    async def rerank(self, request: pb.RerankRequest, call: Call) -> pb.RerankResponse:
        """Orders texts by how well they answer a query."""

    async def count_tokens(self, request: pb.CountTokensRequest, call: Call) -> pb.CountTokensResponse:
        """Counts the tokens of a prompt."""

    async def list_models(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        """Lists the models."""

    async def get_status(self, request: pb.GetStatusRequest, call: Call) -> pb.GetStatusResponse:
        """Says how the adapter and its vendor are."""

    async def sign_in(self, request: pb.SignInRequest, call: Call, send: SendStep) -> None:
        """Signs in at the vendor: hands a challenge first and the account last to `send`, then returns."""


class GeneratorFactory(Protocol):
    """What an entry point of COLOCATE_GROUP names."""

    def __call__(self, document: ConfigDocument, integration: str) -> Generator:
        """Makes the generator of one integration from its configuration. Raises ConfigError."""
