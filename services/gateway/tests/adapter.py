"""An adapter that says of itself what a test wants."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.auth import LocalAuthenticator
from sluice_kit.call import Call
from sluice_kit.config import ServerConfig
from sluice_kit.rpc import invalid_field
from sluice_kit.server import Server

SERVICE = pb.DESCRIPTOR.services_by_name["ProviderService"]


class Adapter:
    """Answers GetStatus with `status` and ListModels with `models`, and nothing else.

    Each probe has another latency. `hangs` holds back every answer, `vendor_hangs` those of probes.
    """

    def __init__(self) -> None:
        self.status = pb.GetStatusResponse(available=True, adapter="fake")
        self.version = "1.0"
        self.hangs = False
        self.vendor_hangs = False
        self.polls = self.probes = 0
        self.models: list[str] = []
        self.lists = 0
        self.asked = asyncio.Event()
        """Set with every question; clear it to wait for the next."""
        self._latency = itertools.count(1)

    async def get_status(self, request: pb.GetStatusRequest, call: Call) -> pb.GetStatusResponse:
        self.asked.set()
        if self.hangs or (request.probe and self.vendor_hangs):
            await asyncio.Event().wait()
        answer = pb.GetStatusResponse()
        answer.CopyFrom(self.status)
        if request.probe:
            self.probes += 1
            answer.version = self.version
            answer.latency.FromMilliseconds(next(self._latency))
        else:
            self.polls += 1
        return answer

    async def list_models(self, request: pb.ListModelsRequest, call: Call) -> pb.ListModelsResponse:
        self.lists += 1
        if self.hangs:
            await asyncio.Event().wait()
        return pb.ListModelsResponse(models=[model_pb2.Model(id=name) for name in self.models])

    def rpcs(self) -> dict[str, Any]:
        """What it answers, by name."""
        return {"GetStatus": self.get_status, "ListModels": self.list_models}

    async def _other(self, *_: object) -> None:
        raise invalid_field("method", "not played")

    @contextlib.asynccontextmanager
    async def serving(self, address: str) -> AsyncIterator[Server]:
        """Serves it for the length of the block."""
        server = Server("fake", address, None, LocalAuthenticator(), ServerConfig())
        rpcs = {method.name: self._other for method in SERVICE.methods} | self.rpcs()
        server.add(SERVICE, SimpleNamespace(**rpcs))
        await server.bind()
        await server.ready()
        try:
            yield server
        finally:
            await server.stop(0)
