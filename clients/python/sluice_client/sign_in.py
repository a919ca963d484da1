"""Signing an integration in at its vendor."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

import grpc

from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice.gateway.v1.integration_service_pb2_grpc import IntegrationServiceStub
from sluice.provider.v1.sign_in_pb2 import SignInStep
from sluice_client.connection import Connection
from sluice_client.failures import StreamProtocolError, read_failure
from sluice_client.reader import Reader, StreamingCall


class SignInStream:
    """The steps of a sign-in: a `challenge`, which a person must see, and `done`, when that person has consented.

    It ends normally if and only if the last step was `done`. Leaving the block of `async with` early gives the sign-in
    up. It is never repeated: the code that was shown belongs to one call.
    """

    def __init__(self, begin: Callable[[], StreamingCall[pb.BeginSignInResponse]]) -> None:
        self._begin = begin
        self._reader: Reader[pb.BeginSignInResponse] | None = None
        self._done = False
        self._ended = False

    async def aclose(self) -> None:
        """Ends the call. Called when the block of an `async with` is left."""
        self._ended = True
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SignInStep:
        try:
            while not self._ended:
                if self._reader is None:
                    self._reader = Reader(self._begin())
                message = await self._reader.next()
                if message is None:
                    await self.aclose()
                    if not self._done:
                        raise StreamProtocolError("the sign-in ended with status OK, but not with its last step")
                elif message.step.WhichOneof("kind") is not None:
                    self._done = message.step.HasField("done")
                    return message.step
        except grpc.aio.AioRpcError as error:
            await self.aclose()
            raise read_failure(error)[0] from None
        except BaseException:
            # Whoever stops here does not come back, inside of a block or not.
            await self.aclose()
            raise
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


class SignInCalls(Connection):
    """The call that signs an integration in."""

    def begin_sign_in(self, integration: str, *, timeout: float | None = None) -> SignInStream:
        """Returns the steps of a sign-in; the call is made when they are first read. For administrators.

        `timeout` is seconds for all of it; None: as long as the vendor's code is good. The stream raises SluiceError:
        UNSUPPORTED_OPERATION where the integration knows no sign-in, TOO_MANY_IN_FLIGHT while another one runs,
        UPSTREAM_PERMISSION if the person declines, UPSTREAM_TIMEOUT if the code expires.
        """
        request = pb.BeginSignInRequest(integration=integration)
        integrations = self.stub(IntegrationServiceStub)
        return SignInStream(lambda: integrations.BeginSignIn(request, timeout=timeout, metadata=self.metadata))
