"""Answers that stop where a test wants it and go on when it says so, on machines of any speed."""

import asyncio
from collections.abc import Callable
from typing import Any

from sluice.provider.v1 import provider_service_pb2 as pb


class Pausing:
    """Stands before an adapter. Its answers stop after their first content until `go_on` is set.

    With `before`, those that it is true of stop before they are asked for.
    """

    def __init__(self, inner: Any, before: Callable[[pb.GenerateRequest], bool] | None = None) -> None:
        self._inner = inner
        self._before = before
        self.go_on = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def generate(self, request: pb.GenerateRequest, call: Any, send: Any) -> None:
        async def slowly(batch: pb.GenerateResponse) -> None:
            if (taken := send(batch)) is not None:
                await taken
            if any(event.HasField("text_delta") for event in batch.events):
                await self.go_on.wait()

        if self._before is None:
            await self._inner.generate(request, call, slowly)
            return
        if self._before(request):
            await self.go_on.wait()
        await self._inner.generate(request, call, send)


def pausing(client: Any, before: Callable[[pb.GenerateRequest], bool] | None = None) -> Pausing:
    """Puts one before the scripted adapter of a gateway."""
    integration = client.gateway._integrations.get("scripted")
    integration.generator = found = Pausing(integration.generator, before)
    return found
