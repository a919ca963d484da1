"""One bootstrap for every service: bind check, health, reflection, drain.

The order is the same everywhere: bind (a port in use is an error at once), health NOT_SERVING, the service warms up,
SERVING. On SIGTERM: NOT_SERVING first, so that balancers turn away, new calls are refused with DRAINING, calls in
flight finish within the grace, the rest is cancelled and awaited.
"""

import asyncio
import gc
import logging
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from sluice_kit.auth import Authenticator
from sluice_kit.config import ServerConfig
from sluice_kit.health import SERVICE_NAME, Check, Health
from sluice_kit.rpc import Dispatcher
from sluice_kit.tls import ListenerTls

log = logging.getLogger(__name__)

SERVER_OPTIONS: Final[dict[str, int]] = {
    # On by default in grpc: two servers would bind one port without an error.
    "grpc.so_reuseport": 0,
    # A dead peer is noticed after 50 s at the most.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,
    # grpc's default of 300 s would kill silent streams of clients that ping more often.
    "grpc.http2.min_ping_interval_without_data_ms": 20_000,
    # Error details travel as a header; grpc may drop a status above the soft limit.
    "grpc.max_metadata_size": 32 * 1024,
}


_LAST_ANSWERS_SECONDS: Final = 0.2


class BindError(Exception):
    """An address cannot be listened on. The message says which and why."""


class GenericHandlers:
    """Adds the handlers of generated code to a server, and leaves out what that code says a second time.

    It registers each method at the core, too. For every call, of whatever method, grpc.aio then waits anew for the next
    call of each registered one: the four of health and reflection would make every call of a service dearer.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Adds handlers."""
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Leaves them out: they are among the generic ones."""


class Service(Protocol):
    """One service of the mesh: what `main` and `testing` run.

    One that cannot take requests without something of its own also has `needs`: checks by name, see `sluice_kit.health`.
    """

    name: str
    """Its section of the configuration, e.g. `gateway`."""
    listen: str
    """Address to serve on: `host:port` (port 0: any free one) or `unix:/path`."""
    probe: str | None
    """Address for health checks alone; None: none."""
    authenticator: Authenticator
    """How its listener finds out who calls."""
    tls: ListenerTls | None
    """TLS of `listen`, unless that is a Unix socket; None: plain."""

    def register(self, server: "Server") -> None:
        """Adds its RPCs to the server."""

    async def start(self) -> None:
        """Gets ready to serve. Health is NOT_SERVING until this returns."""

    async def drain(self, grace: float) -> None:
        """Is told that it will stop within `grace` seconds; returns at once, or when it is idle or they are over."""

    async def stop(self) -> None:
        """Releases everything, after the last call ended."""


class Server:
    """A grpc server with health, reflection and an orderly end."""

    def __init__(
        self,
        name: str,
        listen: str,
        probe: str | None,
        authenticator: Authenticator,
        config: ServerConfig,
        tls: ListenerTls | None = None,
    ):
        self.name = name
        self.address = listen
        self.probe_address = probe
        # Who may open a Unix socket is decided by the file system.
        tls = None if listen.startswith("unix") else tls
        self._credentials = tls.credentials if tls is not None else None
        self.dispatcher = Dispatcher(authenticator, tls.trust if tls is not None else None)
        self._config = config
        options = SERVER_OPTIONS | {
            "grpc.max_receive_message_length": config.max_message_bytes,
            "grpc.max_send_message_length": config.max_message_bytes,
        }
        if config.max_connection_seconds > 0:
            # Without a grace, which grpc's default is: streams last as long as they last.
            options["grpc.max_connection_age_ms"] = max(1, round(config.max_connection_seconds * 1000))
        self._server = grpc.aio.server(options=list(options.items()))
        self._probe = grpc.aio.server(options=[("grpc.so_reuseport", 0)]) if probe is not None else None
        self._health = Health()
        self._names: list[str] = []

    def add(self, service: ServiceDescriptor, implementation: object) -> None:
        """Serves a service; see Dispatcher.handler."""
        self._server.add_generic_rpc_handlers((self.dispatcher.handler(service, implementation),))
        self._names.append(service.full_name)

    def add_generic(self, handler: grpc.GenericRpcHandler, names: list[str]) -> None:
        """Serves whole services by one handler, e.g. to forward them. `names` are theirs, for reflection."""
        self._server.add_generic_rpc_handlers((handler,))
        self._names.extend(names)

    async def bind(self) -> None:
        """Takes the addresses and answers health checks, with NOT_SERVING. Raises BindError."""
        generic = GenericHandlers(self._server)
        probe = GenericHandlers(self._probe) if self._probe is not None else None
        await self._health.begin(generic, probe, self._names)
        if self._config.reflection:
            names = [*self._names, SERVICE_NAME, reflection.SERVICE_NAME]
            servicer = reflection.aio.ReflectionServicer(names)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, generic)  # type: ignore[no-untyped-call]  # generated
        self.address = _bind(self._server, self.address, self._credentials)
        if self._probe is not None and self.probe_address is not None:
            # Plain on purpose: health checks of platforms cannot do TLS, and nothing but health is served there.
            self.probe_address = _bind(self._probe, self.probe_address)
            await self._probe.start()
        await self._server.start()

    async def ready(self, needs: Mapping[str, Check] | None = None) -> None:
        """Reports SERVING. `needs` are what the service needs itself, by what to call it; see `sluice_kit.health`."""
        await self._health.open(needs or {})
        log.info("serving", extra={"address": self.address})

    def refuse_new(self) -> None:
        """Refuses new calls with DRAINING."""
        self.dispatcher.drain()

    async def report_stopping(self) -> None:
        """Reports NOT_SERVING, for good."""
        await self._health.shut()

    async def stop(self, grace: float) -> None:
        """Lets calls in flight finish for `grace` seconds, cancels the rest and waits for their tasks too."""
        self.refuse_new()
        if grace > 0:
            # Our own calls, not grpc's: it would wait for health watches too, which never end by themselves and of
            # which every client of the mesh holds one.
            idle = asyncio.create_task(self.dispatcher.wait_idle())
            await asyncio.wait((idle,), timeout=grace)
            idle.cancel()
        # Once only: grpc crashes if a second stop runs into the first. What is left of the grace lets answers leave.
        await self._server.stop(min(grace, _LAST_ANSWERS_SECONDS))
        # grpc does not wait for the tasks of calls that it aborted.
        await self.dispatcher.wait_idle()
        if self._probe is not None:
            await self._probe.stop(None)


def _bind(server: Any, address: str, credentials: grpc.ServerCredentials | None = None) -> str:
    _check_unix_socket(address)
    try:
        port: int
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        port = 0
    if port == 0:
        raise BindError(f"cannot listen on {address}: {_why(address)}")
    if address.startswith("unix"):
        return address
    return f"{address.rpartition(':')[0]}:{port}"


def _check_unix_socket(address: str) -> None:
    """grpc removes an existing socket file before it binds, even one that is served; so look first."""
    if not address.startswith("unix:"):
        return
    path = Path(address.removeprefix("unix:").removeprefix("//"))
    if len(str(path).encode()) > 100:
        raise BindError(f"cannot listen on {address}: the path of a Unix socket may have 100 bytes at most")
    if not path.parent.is_dir():
        raise BindError(f"cannot listen on {address}: {path.parent} is not a folder")
    with socket.socket(socket.AF_UNIX) as probe:
        if path.exists() and probe.connect_ex(str(path)) == 0:
            raise BindError(f"cannot listen on {address}: another process serves it")


def _why(address: str) -> str:
    """Asks the system why an address cannot be bound, because grpc does not say."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return "expected host:port or unix:/path"
    try:
        for family, kind, proto, _, where in socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM):
            with socket.socket(family, kind, proto) as probe:
                probe.bind(where)
    except OSError as error:
        return error.strerror or str(error)
    return "refused by the system"


async def serve(service: Service, config: ServerConfig, stopping: asyncio.Event) -> None:
    """Runs a service until `stopping` is set, then drains and stops it. Raises BindError."""
    server = await start(service, config)
    _settle_garbage_collection()
    try:
        await stopping.wait()
        log.info("draining", extra={"in_flight": server.dispatcher.in_flight})
    finally:
        await shut_down(service, server, config.drain_seconds)
        log.info("stopped")


async def start(service: Service, config: ServerConfig) -> Server:
    """Binds and starts a service, and returns its server once it is SERVING."""
    server = Server(service.name, service.listen, service.probe, service.authenticator, config, service.tls)
    registered = False
    try:
        service.register(server)
        registered = True
        await server.bind()
        await service.start()
    except BaseException:
        await server.stop(0)
        if registered:
            await service.stop()
        raise
    await server.ready(getattr(service, "needs", None))
    return server


def _settle_garbage_collection() -> None:
    """Leaves out of every later collection what was made by now, which lives as long as the process.

    Requests make few cycles, so a collection after 700 objects, Python's default, mostly finds nothing: 3 to 4 % of the
    CPU of short answers.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def shut_down(service: Service, server: Server, grace: float) -> None:
    """Stops a service in the order that loses nothing it need not lose."""
    await server.report_stopping()
    server.refuse_new()
    loop = asyncio.get_running_loop()
    end = loop.time() + grace
    await service.drain(grace)
    await server.stop(max(end - loop.time(), min(grace, _LAST_ANSWERS_SECONDS)))
    await service.stop()
