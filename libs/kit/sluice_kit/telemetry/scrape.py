"""The listener that serves metrics: HTTP, in a thread of its own, on an address of its own."""

import os
import socket
import threading
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from sluice_kit.server import BindError

_END_SECONDS: Final = 5.0


class Scrape:
    """Serves a registry until it is closed."""

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        """Listens at once. Raises BindError."""
        host, _, port = address.rpartition(":")
        try:
            served = start_http_server(int(port), host.strip("[]"), registry)
        except (OSError, socket.gaierror) as error:
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise BindError(f"cannot serve metrics on {address}: {why}") from None
        self._server: WSGIServer = served[0]
        self._thread: threading.Thread = served[1]
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        """Stops listening. Waits for the thread, so not on the event loop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_END_SECONDS)
