"""Channels to other services: long-lived, pooled, with what is left of the deadline and the identity passed on."""

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import grpc

from sluice_kit.call import REQUEST_ID_KEY, Call, current_call
from sluice_kit.identity import IDENTITY_KEY, encode
from sluice_kit.telemetry.spans import Headers, Span
from sluice_kit.tls import MeshTls
from sluice_kit.tls_channel import TlsChannel

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024

# Reads inside the mesh may be repeated by grpc itself; generation never is, because only the gateway's attempt module
# knows whether content went out.
_RETRIED_SERVICES: Final = (
    "sluice.retrieval.v1.SearchService",
    "sluice.gateway.v1.ModelService",
    "sluice.gateway.v1.IntegrationService",
)
_SERVICE_CONFIG: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        # Needs health on the serving port; without it grpc leaves the check out silently.
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": [{"service": service} for service in _RETRIED_SERVICES],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)

CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    # Without it every channel of the process with equal arguments shares one connection, pooled or not.
    ("grpc.use_local_subchannel_pool", 1),
    # Keepalive: at or above what our servers permit, so that they never answer too_many_pings.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A client that stops reading makes the server buffer 97 KB instead of 6 MB a stream.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    # A peer that restarts is back within a second, not after grpc's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # In spite of its name this is how long one attempt to connect may take: short, a busy machine is taken for a dead one.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.service_config", _SERVICE_CONFIG),
)


def open_channel(
    address: str, options: Mapping[str, Any] | None = None, *, tls: MeshTls | None = None, service: str = ""
) -> grpc.aio.Channel:
    """Opens a channel to a service. It connects when first used. `options` override CHANNEL_OPTIONS by name.

    With `tls` the peer must show the certificate of `service`, unless the address is a Unix socket.
    """
    merged = dict(CHANNEL_OPTIONS) | dict(options or {})
    if tls is None or address.startswith("unix"):
        return grpc.aio.insecure_channel(address, options=list(merged.items()))
    # What the certificate must say, whatever the address is.
    merged["grpc.ssl_target_name_override"] = tls.trust.dns_name(service)
    return TlsChannel(
        tls, lambda credentials: grpc.aio.secure_channel(address, credentials, options=list(merged.items()))
    )


class ChannelPool:
    """Channels by address and service, opened once each."""

    def __init__(self, tls: MeshTls | None = None) -> None:
        """`tls` is the process's mutual TLS, if there is."""
        self._tls = tls
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

    def get(self, address: str, service: str) -> grpc.aio.Channel:
        """Returns the channel to an address, at which that service must be."""
        channel = self._channels.get((address, service))
        if channel is None:
            channel = self._channels[address, service] = self.open(address, service)
        return channel

    def open(self, address: str, service: str) -> grpc.aio.Channel:
        """Opens one that the pool does not keep: its caller closes it."""
        return open_channel(address, tls=self._tls, service=service)

    async def close(self) -> None:
        """Closes every channel, ending the calls on them."""
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close(None) for channel in channels))


def outgoing(call: Call, limit: float | None = None) -> dict[str, Any]:
    """Returns the keyword arguments of a call made on behalf of another: timeout and metadata.

    The timeout is what is left of the incoming deadline, at most `limit` seconds; deadlines do not propagate by
    themselves in Python.
    """
    left = call.time_remaining()
    if limit is not None:
        left = limit if left is None else min(left, limit)
    metadata = ((IDENTITY_KEY, encode(call.identity)), (REQUEST_ID_KEY, call.request_id), *call.span.headers)
    return {"timeout": left, "metadata": metadata}


class Calling:
    """A call made on behalf of another, as traces show it: `with Calling(call, path) as options: stub(…, **options)`.

    `options` are those of `outgoing`.
    """

    __slots__ = ("_call", "_limit", "_span")

    def __init__(self, call: Call, path: str, limit: float | None = None) -> None:
        self._call = call
        self._limit = limit
        self._span: Span = call.span.client(path)

    def __enter__(self) -> dict[str, Any]:
        return outgoing(self._call.under(self._span), self._limit)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._span.__exit__(kind, error, traceback)


def trace_headers() -> Headers:
    """Returns the trace context of the call that the running task serves, for calls that are not made by `outgoing`."""
    call = current_call.get()
    return () if call is None else call.span.headers
