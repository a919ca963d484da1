"""A mesh for the soak: gateway, adapters and retrieval as processes, with everything that keeps something cut short.

What is kept for a time (logs, answers, conversations, tasks) is kept for seconds, so that what is given up shows within
the run; what is kept up to a size is filled before anything is measured.
"""

import asyncio
import contextlib
import hashlib
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from bench.paths import INTEGRATION, Site, mock
from bench.process import Process, free_port

QUOTES: Final = "quotes"
CORPUS: Final = "soak"
TENANTS: Final = 100
OPERATOR: Final = "operator"
PATHS: Final = ("two", "colocated")
CACHE_BYTES: Final = 512 * 1024
_SOURCE: Final = '''"""The valve, part {number}."""


class Valve{number}:
    """Opens and closes the sluice."""

    def flow(self, width: float) -> float:
        """Returns the flow in litres a second of the valve with number {number}."""
        return width * {number}.5
'''


class Mesh:
    """A mesh whose processes run."""

    def __init__(self, site: Site, name: str, kept: float) -> None:
        """`kept` is how many seconds events of ended responses are kept, and their answers as long again."""
        self.name = name
        self._kept = kept
        self.folder = site.folder
        self.state = site.folder / f"{name}-state"
        self.source = site.folder / "source"
        self.address = f"127.0.0.1:{free_port()}"
        self.processes: dict[str, Process] = {}
        self.metrics: dict[str, int] = {}
        """Port of the metrics, by process."""
        self.reloads = 0
        self._site = site
        self._config = site.folder / f"{name}-soak.yaml"
        self._keys = site.folder / f"{name}-keys.yaml"

    @property
    def spare(self) -> str:
        """Address of an adapter that can be registered."""
        return f"unix:{self._socket('spare')}"

    @property
    def logs(self) -> list[Path]:
        """What its processes write."""
        return [self.folder / f"{self.name}-{name}.log" for name in self.processes]

    def key(self, tenant: str) -> str:
        """Returns a tenant's key."""
        return f"sk-{hashlib.sha256(f'{self._site.key} {tenant}'.encode()).hexdigest()}"

    def report_file(self, process: str) -> Path:
        """Returns where a process writes what is alive in it."""
        return self.folder / f"{self.name}-{process}.json"

    def reload(self) -> None:
        """Changes routes and prices, and has the gateway take them."""
        self.reloads += 1
        self._write()
        self.processes["gateway"].send(signal.SIGHUP)

    async def start(self) -> None:
        """Starts it and waits until it serves. Raises StartError."""
        self.source.mkdir(exist_ok=True)
        for number in range(12):
            (self.source / f"valve{number}.py").write_text(_SOURCE.format(number=number), encoding="utf-8")
        rows = [self._row(OPERATOR, "admin"), *(self._row(tenant(number), "user") for number in range(TENANTS))]
        self._keys.write_text(yaml.safe_dump({"keys": rows}), encoding="utf-8")
        self._write()
        adapters = ["spare", INTEGRATION, QUOTES] if self.name == "two" else ["spare"]
        for adapter in adapters:
            integration = INTEGRATION if adapter == "spare" else adapter
            listen = f"providers.{integration}.listen=unix:{self._socket(adapter)}"
            self._run(
                adapter, "sluice_providers", f"unix:{self._socket(adapter)}", "--integration", integration, listen
            )
        self._run("retrieval", "sluice_retrieval", f"unix:{self._socket('retrieval')}")
        self._run("gateway", "sluice_gateway", self.address, f"gateway.listen={self.address}")
        for process in self.processes.values():
            await process.ready()

    def stop(self) -> None:
        """Ends every process."""
        for process in self.processes.values():
            process.stop()

    def _run(self, name: str, module: str, health: str, *arguments: str) -> None:
        port = self.metrics[name] = free_port()
        options = [f"telemetry.metrics=127.0.0.1:{port}"]
        options += [argument for argument in arguments if "=" in argument]
        command: list[str | Path] = [sys.executable, "-m", "bench.soak.watched", self.report_file(name), module]
        command += ["--config", self._config, *(argument for argument in arguments if "=" not in argument)]
        for option in options:
            command += ["--set", option]
        self.processes[name] = Process(f"{self.name}-{name}", command, folder=self.folder, health=health)

    def _socket(self, name: str) -> Path:
        return self.folder / f"{self.name}-{name}.sock"

    def _row(self, who: str, role: str) -> dict[str, Any]:
        digest = hashlib.sha256(self.key(who).encode()).hexdigest()
        return {"id": who, "sha256": digest, "tenant": who, "roles": [role]}

    def _write(self) -> None:
        new = self._config.with_suffix(".new")
        new.write_text(yaml.safe_dump(self._settings()), encoding="utf-8")
        new.replace(self._config)

    def _settings(self) -> Mapping[str, Any]:
        target = f"{INTEGRATION}/m-n8"
        two = self.name == "two"
        return {
            "state_dir": str(self.state),
            "auth": {"mode": "keys", "keys_file": str(self._keys)},
            "gateway": {
                "integrations": {
                    name: {"address": f"unix:{self._socket(name)}"} if two else {"colocate": True}
                    for name in (INTEGRATION, QUOTES)
                },
                "retrieval": {"address": f"unix:{self._socket('retrieval')}"},
                "routes": {"default": {"targets": [target]}, f"route-{self.reloads}": {"targets": [target]}},
                "prices": {target: {"input": 1 + self.reloads % 7, "output": 2}},
                "log": {"retention_seconds": self._kept, "answer_seconds": 2 * self._kept},
                "retention": {"responses_seconds": 86400, "attempts_seconds": 30, "sweep_seconds": 5},
                "conversations": {"max_age_seconds": 20},
                "cache": {"total_bytes": CACHE_BYTES},
                "registration": {"allow": [f"unix:{self.folder}/*"]},
            },
            "providers": {
                INTEGRATION: {"adapter": "openai", "base_url": self._site.upstream, "api_key": "sk-upstream"},
                QUOTES: {"adapter": "extractive"},
            },
            "retrieval": {
                "listen": f"unix:{self._socket('retrieval')}",
                "allowed_roots": [str(self.source)],
                "keep_tasks_seconds": 20,
                "keep_revisions_seconds": 20,
            },
        }


def tenant(number: int) -> str:
    """Returns the name of a tenant."""
    return f"tenant-{number % TENANTS}"


@contextlib.asynccontextmanager
async def running(folder: Path, name: str, kept: float) -> AsyncIterator[Mesh]:
    """Runs a mesh and its upstream for the length of the block; see `Mesh`. Raises StartError."""
    site = Site(folder, free_port())
    upstream = mock(site)
    mesh = Mesh(site, name, kept)
    try:
        await upstream.ready()
        await mesh.start()
        yield mesh
    finally:
        await asyncio.to_thread(mesh.stop)
        await asyncio.to_thread(upstream.stop)
