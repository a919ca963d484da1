"""The services of a mesh as processes that a test stops, kills and starts again, each by itself, in any number."""

from __future__ import annotations

import asyncio
import copy
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sluice.retrieval.v1.corpus_pb2 import LocalSource, Source
from sluice.task.v1.task_service_pb2 import TASK_STATE_SUCCEEDED
from sluice_client import SluiceClient
from sluice_kit.channels import open_channel
from tests.servers.ports import free_port as free_port

from .processes import environment

_SECONDS: Final = 60.0
"""Bound of every wait: far above what is needed, so that only a hang reaches it."""
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
# A channel of ours watches health itself, and would not ask one that is not serving.
_PLAIN: Final = {"grpc.service_config": "{}"}


class Service:
    """One service, whose process may come and go on the same address with the same state."""

    def __init__(self, name: str, folder: Path, module: str, settings: Mapping[str, Any], address: str, *more: str):
        self.name, self.address = name, address
        config = folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
        self._command = [sys.executable, "-m", module, "--config", str(config), "--until-stdin-closes", *more]
        self._log = folder / f"{name}.log"
        self._environment = environment(folder / "home")
        self._process: subprocess.Popen[bytes] | None = None

    def set(self, override: str) -> None:
        """Overrides one setting of the processes that are started from now on: `NAME=VALUE`."""
        self._command += ["--set", override]

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def spawn(self) -> None:
        """Starts a process, and does not wait for it."""
        assert self._process is None, f"{self.name} runs already"
        with self._log.open("ab") as said:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.PIPE, stdout=said, stderr=said
            )

    async def start(self) -> None:
        """Starts a process, and waits until it takes calls."""
        self.spawn()
        await self.until("")

    async def until(self, name: str, status: int = _SERVING) -> None:
        """Waits until a name of its health is so."""
        try:
            async with asyncio.timeout(_SECONDS), open_channel(self.address, _PLAIN) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                call = stub.Watch(health_pb2.HealthCheckRequest(service=name), wait_for_ready=True)
                while (await call.read()).status != status:
                    pass
                call.cancel()
        except TimeoutError:
            raise AssertionError(f"{self.name} is not so: {self.said()}") from None

    def terminate(self) -> None:
        """Asks it to stop."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Waits for the end of its process and returns the exit code."""
        process, self._process = self._process, None
        assert process is not None
        code = await asyncio.to_thread(process.wait, _SECONDS)
        assert process.stdin is not None
        process.stdin.close()
        return code

    async def stop(self) -> None:
        """Stops it in order."""
        self.terminate()
        code = await self.ended()
        assert code == 0, f"{self.name} ended with {code}: {self.said()}"

    async def kill(self) -> None:
        """Ends it at once."""
        assert self._process is not None
        self._process.kill()
        await self.ended()

    async def restart(self) -> None:
        """Stops it in order, and starts another process in its place."""
        await self.stop()
        await self.start()

    def leave(self) -> None:
        """Ends what is left of it, without waiting for anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process = None

    def said(self) -> str:
        """The last of its logs."""
        return self._log.read_text(encoding="utf-8")[-3000:] if self._log.exists() else "nothing"


class Fleet:
    """The services of one mesh: gateways, replicas of each adapter behind one address, and retrieval."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], *, gateways: int = 1, adapters: int = 1, retrieval: bool = True
    ) -> None:
        """`settings` has the sections `providers` and `gateway`, and may have more; addresses are filled in."""
        values: dict[str, Any] = copy.deepcopy({"providers": {}, "gateway": {}, **settings})
        gateway = values["gateway"]
        self.adapters: list[Service] = []
        self.gateways: list[Service] = []
        self.retrieval: Service | None = None
        self.state_dirs = [folder / f"state-{number}" for number in range(1, gateways + 1)]
        """Of the gateways."""
        ports = {name: [free_port() for _ in range(adapters)] for name in values["providers"]}
        integrations = gateway.setdefault("integrations", {})
        for name, those in ports.items():
            addresses = ",".join(f"127.0.0.1:{port}" for port in those)
            integrations[name] = {"address": f"ipv4:{addresses}"}
        if retrieval:
            values["retrieval"] = {**values.get("retrieval", {}), "listen": f"127.0.0.1:{free_port()}"}
            gateway["retrieval"] = {"address": values["retrieval"]["listen"], **gateway.get("retrieval", {})}
        values["state_dir"] = str(folder / "state")
        for name, those in ports.items():
            for number, port in enumerate(those, 1):
                mine = copy.deepcopy(values)
                mine["providers"][name]["listen"] = address = f"127.0.0.1:{port}"
                more = ("--integration", name)
                self.adapters.append(Service(f"{name}-{number}", folder, "sluice_providers", mine, address, *more))
        if retrieval:
            address = values["retrieval"]["listen"]
            self.retrieval = Service("retrieval", folder, "sluice_retrieval", values, address)
        for number, state_dir in enumerate(self.state_dirs, 1):
            mine = copy.deepcopy(values)
            mine["state_dir"] = str(state_dir)
            mine["gateway"]["listen"] = address = f"127.0.0.1:{free_port()}"
            self.gateways.append(Service(f"gateway-{number}", folder, "sluice_gateway", mine, address))

    @property
    def services(self) -> dict[str, Service]:
        """All of them by name: adapters, retrieval, gateways."""
        found = [*self.adapters, *((self.retrieval,) if self.retrieval is not None else ()), *self.gateways]
        return {service.name: service for service in found}

    @property
    def address(self) -> str:
        """What clients connect to: every gateway."""
        return "ipv4:" + ",".join(gateway.address for gateway in self.gateways)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Fleet]:
        """Runs them for the length of the block. What still runs at its end is stopped in order."""
        try:
            # At once, because the order must not matter.
            for service in self.services.values():
                service.spawn()
            for service in self.services.values():
                await service.until("")
            yield self
            await asyncio.gather(*(service.stop() for service in self.services.values()))
        finally:
            for service in self.services.values():
                service.leave()


async def index(address: str, name: str, texts: Path) -> None:
    """Makes a corpus of the files in a folder."""
    async with SluiceClient(address) as client:
        await client.create_corpus(name)
        task = await client.index_corpus(name, Source(local=LocalSource(path=str(texts))))
        done = await client.watch_task(task.name).result()
        assert done.state == TASK_STATE_SUCCEEDED, done
