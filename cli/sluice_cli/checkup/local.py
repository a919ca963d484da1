"""What can be seen on this machine: the configuration, the files it names, the disk, and where telemetry goes."""

import asyncio
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sluice_cli.checkup.findings import Findings
from sluice_cli.config import problems_of, unset_variables
from sluice_kit.config import AuthConfig, ConfigDocument, ConfigError, is_private_address, load
from sluice_kit.tls_validity import validity_of

_LITTLE_BYTES: Final = 1024**3
_LITTLE_SHARE: Final = 0.05
_SECONDS: Final = 3.0
_FILES: Final = ("keys_file", "key", "certificate", "ca", "client_ca", "ca_file")
_PRIVATE: Final = ("keys_file", "key")
"""Settings whose files nobody else should read."""
_CERTIFICATES: Final = ("certificate", "ca", "client_ca")
"""Settings whose files hold certificates."""
_LITTLE_LIFE: Final = 0.1
"""The share of a certificate's life from which on somebody has to know, as services say it in their logs."""


async def examine(path: Path, findings: Findings) -> None:
    """Looks at a configuration, and at what of it lies here."""
    try:
        document = load(path)
    except ConfigError as error:
        findings.fail("config", str(error), "mend the file")
        return
    mistakes = list(problems_of(document))
    for mistake in mistakes:
        findings.fail("config", mistake, "mend the file; `sluice config check` says the same")
    if not mistakes:
        findings.ok("config", f"{path} is good")
    for setting, variable in unset_variables(document.data):
        findings.warn("config", f"{setting}: {variable} is not set here", f"set {variable} where the service runs")
    _listeners(document, findings)
    _files(document, findings)
    _prices(document, findings)
    _disk(document, findings)
    await _telemetry(document, findings)


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    if isinstance(value, Mapping):
        for name, child in value.items():
            at = f"{path}.{name}" if path else str(name)
            yield at, str(name), child
            yield from _walk(child, at)


def _listeners(document: ConfigDocument, findings: Findings) -> None:
    try:
        mode = document.section("auth", AuthConfig).mode
    except ConfigError:
        return  # said above
    if mode != "insecure":
        return
    for path, name, value in _walk(document.data):
        if name in ("listen", "internal") and isinstance(value, str) and not is_private_address(value):
            findings.warn(path, f"{value} can be reached from other machines, without a key", "set auth.mode: keys")


def _files(document: ConfigDocument, findings: Findings) -> None:
    for path, name, value in _walk(document.data):
        if name not in _FILES or not isinstance(value, str) or path.split(".")[-2:-1] == ["prices"]:
            continue
        file = document.resolve(value)
        try:
            mode = file.stat().st_mode
        except OSError as error:
            findings.fail(path, f"{file}: {error.strerror}", "put the file there, or mend the setting")
            continue
        if name in _PRIVATE and mode & (stat.S_IRWXG | stat.S_IRWXO):
            findings.warn(path, f"others can read {file} (mode {mode & 0o777:o})", f"chmod 600 {file}")
        elif name in _CERTIFICATES:
            _certificate(path, file, findings)
        else:
            findings.ok(path, f"{file} is there")


def _certificate(path: str, file: Path, findings: Findings) -> None:
    try:
        begins, ends = validity_of(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        findings.fail(path, f"{file}: {said}", "put a certificate there, or mend the setting")
        return
    now = time.time()
    if now < begins:
        findings.fail(path, f"{file} holds from {_when(begins)} on, and not yet", "is this machine's clock right?")
    elif now >= ends:
        findings.fail(path, f"{file} ended at {_when(ends)}", "renew it; services take new files by themselves")
    elif ends - now < (ends - begins) * _LITTLE_LIFE:
        findings.warn(path, f"{file} ends soon, at {_when(ends)}", "see why it was not renewed")
    else:
        findings.ok(path, f"{file} holds until {_when(ends)}")


def _when(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _prices(document: ConfigDocument, findings: Findings) -> None:
    gateway = document.data.get("gateway")
    if not isinstance(gateway, Mapping):
        return
    prices = gateway.get("prices") or {}
    routes = gateway.get("routes") or {}
    free = {
        name
        for name, settings in (document.data.get("providers") or {}).items()
        if isinstance(settings, Mapping) and settings.get("adapter", name) in ("extractive", "scripted", "ollama")
    }
    targets = {
        target
        for route in routes.values()
        if isinstance(route, Mapping)
        for target in route.get("targets") or ()
        if isinstance(target, str) and target.partition("/")[0] not in free
    }
    for target in sorted(targets - set(prices)):
        findings.warn("prices", f"{target} has none, so its cost is not known", f"set gateway.prices.{target}")


def _disk(document: ConfigDocument, findings: Findings) -> None:
    folder = document.state_dir()
    if not folder.exists():
        return  # the mesh runs elsewhere, or has not begun
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        findings.fail("state_dir", f"{folder} is on a file system that is read-only", "see why, and mount it anew")
        return
    usage = shutil.disk_usage(folder)
    room = f"{usage.free / 1024**3:.1f} GiB free of {usage.total / 1024**3:.0f}"
    if usage.free < _LITTLE_BYTES or usage.free < usage.total * _LITTLE_SHARE:
        findings.warn("state_dir", f"little room for {folder}: {room}", "make room, or move state_dir")
    else:
        findings.ok("state_dir", f"{folder}: {room}")


async def _telemetry(document: ConfigDocument, findings: Findings) -> None:
    section = document.data.get("telemetry")
    if not isinstance(section, Mapping):
        return
    metrics, otlp = section.get("metrics"), section.get("otlp")
    if isinstance(metrics, str) and not metrics.endswith(":0"):
        host, _, port = metrics.rpartition(":")
        host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - where to look
        await _reach(
            "telemetry.metrics",
            host,
            port,
            "nothing serves metrics there",
            "does the service run on this machine?",
            findings,
        )
    if isinstance(otlp, str):
        parts = urlsplit(otlp if "://" in otlp else f"http://{otlp}")
        todo = "start the collector, or mend the setting; until then spans are dropped"
        await _reach(
            "telemetry.otlp", parts.hostname or "", str(parts.port or 4317), "no collector answers", todo, findings
        )


async def _reach(part: str, host: str, port: str, missing: str, todo: str, findings: Findings) -> None:
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
    except (OSError, ValueError, TimeoutError):
        findings.warn(part, f"{missing} ({host}:{port})", todo)
    else:
        findings.ok(part, f"{host}:{port} answers")
