"""Turns a service into a process: arguments, configuration, logs, signals, event loop, exit code."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from sluice_kit import logs, telemetry
from sluice_kit.config import ConfigDocument, ConfigError, LogConfig, ServerConfig, load
from sluice_kit.server import BindError, Service, serve

log = logging.getLogger(__name__)

EXIT_CONFIG: Final = 78
"""Exit code for a configuration that cannot be used, after sysexits.h; a supervisor need not try again."""
EXIT_BIND: Final = 75
"""Exit code for an address that cannot be listened on, or a folder that cannot be used, after sysexits.h: later it may be."""
EXIT_DEFECT: Final = 70
"""Exit code for an unexpected failure, after sysexits.h."""

SERVICES_GROUP: Final = "sluice.services"
"""Entry-point group of factories that make services: `create(document, options) -> Service`."""

Create = Callable[[ConfigDocument, argparse.Namespace], Service]


def parser(name: str) -> argparse.ArgumentParser:
    """Returns the arguments that every service takes."""
    arguments = argparse.ArgumentParser(prog=f"sluice-{name}", description=f"The {name} service of Sluice.")
    arguments.add_argument("--config", type=Path, default=_from_environment(), help="the sluice.yaml to read")
    arguments.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="NAME=VALUE", help="override one setting"
    )
    arguments.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="stop when standard input ends, so that the process never outlives a supervisor",
    )
    return arguments


def _from_environment() -> Path | None:
    value = os.environ.get("SLUICE_CONFIG")
    return Path(value) if value else None


def run(name: str, create: Create, arguments: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Runs a service until SIGTERM or SIGINT and returns the process's exit code."""
    options = arguments.parse_args(argv)
    try:
        document = load(options.config, options.overrides)
        logs.configure(document.section("log", LogConfig), name)
        config = document.section("server", ServerConfig)
        told = telemetry.configure(document, name, getattr(options, "integration", ""))
        service = create(document, options)
    except ConfigError as error:
        print(f"sluice-{name}: {error}", file=sys.stderr)
        return EXIT_CONFIG
    try:
        _run_loop(_main(service, config, told, options.until_stdin_closes))
    except BindError as error:
        print(f"sluice-{name}: {error}", file=sys.stderr)
        return EXIT_BIND
    except ConfigError as error:
        print(f"sluice-{name}: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except Exception:
        log.exception("the service failed")
        return EXIT_DEFECT
    return 0


def _run_loop(main: Coroutine[Any, Any, None]) -> None:
    if sys.platform == "win32":
        asyncio.run(main)  # uvloop does not exist there
    else:
        import uvloop

        uvloop.run(main)


async def _main(service: Service, config: ServerConfig, told: telemetry.Telemetry, until_stdin_closes: bool) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    reload = getattr(service, "reload", None)
    if reload is not None and sys.platform != "win32":
        loop.add_signal_handler(signal.SIGHUP, reload)
    if until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), _on_stdin, loop, stopping)
    with contextlib.ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(loop.remove_signal_handler, number)
        if reload is not None and sys.platform != "win32":
            stack.callback(loop.remove_signal_handler, signal.SIGHUP)
        async with told.running():  # to the last: how the service ends is told, too
            await serve(service, config, stopping)


def _on_stdin(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin.fileno())
        stopping.set()
