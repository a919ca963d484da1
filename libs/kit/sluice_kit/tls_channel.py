"""A channel with mutual TLS that is opened anew when the certificate changes, without losing a call.

grpc.aio has no credentials that change, so a channel is replaced: calls begun after the change go over a new one, those
under way end on the old one, which is closed with its last.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from sluice_kit.tls import MeshTls

Open = Callable[[grpc.ChannelCredentials], grpc.aio.Channel]


class _Version:
    """A channel with one version of the certificate, and how many calls are on it."""

    def __init__(self, generation: int, channel: grpc.aio.Channel, on_idle: "Callable[[_Version], None]") -> None:
        self.generation = generation
        self.channel = channel
        self.calls = 0
        self.retired = False
        self._on_idle = on_idle

    def begin(self, call: Any) -> None:
        self.calls += 1
        call.add_done_callback(self._end)

    def retire(self) -> None:
        self.retired = True
        if not self.calls:
            self._on_idle(self)

    def _end(self, _: Any) -> None:
        self.calls -= 1
        if self.retired and not self.calls:
            self._on_idle(self)


class _Method:
    """An RPC of whichever channel holds now: what grpc calls a multi-callable."""

    def __init__(self, owner: "TlsChannel", kind: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._owner = owner
        self._kind = kind
        self._arguments = arguments
        self._named = named
        self._version: _Version | None = None
        self._method: Any = None

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        version = self._owner.version()
        if version is not self._version:
            self._version = version
            self._method = getattr(version.channel, self._kind)(*self._arguments, **self._named)
        call = self._method(*arguments, **named)
        version.begin(call)
        return call


class TlsChannel(grpc.aio.Channel):
    """A channel to one service, over the process's certificate as it is now."""

    def __init__(self, tls: MeshTls, open_with: Open) -> None:
        self._tls = tls
        self._open = open_with
        self._version = self._make(tls.generation)
        self._old: set[_Version] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many channels it holds: one, and those that calls are left on."""
        return 1 + len(self._old) + len(self._closing)

    def version(self) -> _Version:
        """Returns the channel that new calls take."""
        generation = self._tls.generation
        if generation != self._version.generation:
            old, self._version = self._version, self._make(generation)
            self._old.add(old)
            old.retire()
        return self._version

    async def close(self, grace: float | None = None) -> None:
        """Closes it, with the calls on it and those left on its predecessors."""
        versions, self._old = [self._version, *self._old], set()
        await asyncio.gather(*(version.channel.close(grace) for version in versions), *self._closing)

    async def __aenter__(self) -> "TlsChannel":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Returns the state of the connection for new calls."""
        return self.version().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the connection for new calls is in another state."""
        await self.version().channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits until it is connected."""
        await self.version().channel.channel_ready()

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        """Returns a method; see grpc.aio.Channel."""
        return _Method(self, "unary_unary", arguments, named)

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        """Returns a method; see grpc.aio.Channel."""
        return _Method(self, "unary_stream", arguments, named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        """Returns a method; see grpc.aio.Channel."""
        return _Method(self, "stream_unary", arguments, named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        """Returns a method; see grpc.aio.Channel."""
        return _Method(self, "stream_stream", arguments, named)

    def _make(self, generation: int) -> _Version:
        return _Version(generation, self._open(self._tls.channel_credentials()), self._drained)

    def _drained(self, version: _Version) -> None:
        if version in self._old:
            self._old.discard(version)
            task = asyncio.get_running_loop().create_task(
                version.channel.close(None), name="closing a replaced channel"
            )
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
