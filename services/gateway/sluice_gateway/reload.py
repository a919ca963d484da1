"""Reload: routes, prices and templates follow the configuration while the gateway runs."""

import asyncio
import logging
from typing import Final

from sluice_gateway.config import GatewayConfig
from sluice_gateway.pipeline.plan import Planner, Routes
from sluice_gateway.pipeline.prompts import Prompts, stamp
from sluice_gateway.pipeline.settle import Prices
from sluice_kit.config import ConfigDocument, ConfigError

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 2.0


class Reloader:
    """Takes routes, their limits, prices and templates from the configuration anew, whole or not at all.

    On SIGHUP, and when the file or one of the templates has changed. Everything else of the configuration needs a restart.
    """

    def __init__(self, document: ConfigDocument, planner: Planner, prices: Prices, prompts: Prompts) -> None:
        self._document = document
        self._planner = planner
        self._prices = prices
        self._prompts = prompts
        self._seen = self._stamp()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to look after the file."""
        if self._document.path is not None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._on_tick)

    def close(self) -> None:
        """Stops looking."""
        if self._timer is not None:
            self._timer.cancel()

    def reload(self) -> bool:
        """Takes what the configuration says now; if anything in it is wrong, all stays as it was, and the log says why.

        Returns whether it was taken.
        """
        self._seen = self._stamp()
        try:
            document = self._document.again()
            config = document.section("gateway", GatewayConfig)
            routes, prices, prompts = Routes(document, config), Prices(document, config), Prompts(document, config)
        except ConfigError as error:
            log.error("the configuration is wrong; routes and prices stay as they were", extra={"problem": str(error)})  # noqa: TRY400 - its text says it all, with file and line
            return False
        self._planner.take(routes)
        self._prices.take(prices)
        self._prompts.take(prompts)
        log.info("routes and prices are taken from the configuration", extra={"routes": ", ".join(routes.table)})
        return True

    def _on_tick(self) -> None:
        now = self._stamp()
        # While a file is replaced there may be none for a moment.
        if now is not None and now != self._seen:
            self.reload()
        self.start()

    def _stamp(self) -> tuple[object, ...] | None:
        if self._document.path is None:
            return None
        try:
            found = self._document.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, stamp(self._prompts.folder)
