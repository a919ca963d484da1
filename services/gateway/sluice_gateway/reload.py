"""Reload: routes, prices and templates follow the configuration while the gateway runs."""

import asyncio
import logging
from typing import Final

from sluice_gateway.config import GatewayConfig
from sluice_gateway.pipeline.plan import Planner, Routes
from sluice_gateway.pipeline.prompts import Prompts, stamp
from sluice_gateway.pipeline.settle import Prices
from sluice_kit.config import SECTIONS, ConfigDocument, ConfigError

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 2.0
_FOLLOWED: Final = frozenset({"routes", "default_route", "default_model", "limits", "prices", "prompts"})


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
            if self._is_empty():
                # A disk that is full leaves such a file, and taken for what it says it would empty the table of routes.
                raise ConfigError(f"{self._document.path}: there is nothing in it")
            config = document.section("gateway", GatewayConfig)
            routes, prices, prompts = Routes(document, config), Prices(document, config), Prompts(document, config)
        except ConfigError as error:
            log.error("the configuration is wrong; routes and prices stay as they were", extra={"problem": str(error)})  # noqa: TRY400 - its text says it all, with file and line
            return False
        self._planner.take(routes)
        self._prices.take(prices)
        self._prompts.take(prompts)
        log.info("routes and prices are taken from the configuration", extra={"routes": ", ".join(routes.table)})
        if waiting := self._waiting(document):
            log.warning("changes of other settings need a restart", extra={"settings": ", ".join(waiting)})
        return True

    def _waiting(self, document: ConfigDocument) -> list[str]:
        """Returns the names of what has changed since the start and is not followed."""
        before, now = self._document.data, document.data
        changed = [name for name in SECTIONS if name != "gateway" and before.get(name) != now.get(name)]
        ours_before, ours_now = before.get("gateway") or {}, now.get("gateway") or {}
        names = sorted({*ours_before, *ours_now} - _FOLLOWED)
        return [*(f"gateway.{name}" for name in names if ours_before.get(name) != ours_now.get(name)), *changed]

    def _is_empty(self) -> bool:
        return self._document.path is not None and not self._document.path.read_text(encoding="utf-8").strip()

    def _on_tick(self) -> None:
        now = self._stamp()
        # While a file is replaced there may be none, or an empty one, for a moment.
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
        if not found.st_size:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, stamp(self._prompts.folder)
