"""The meshes of the overlays, started: their configuration, their variables and certificates, on this machine's addresses."""

from __future__ import annotations

import contextlib
import datetime
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from sluice_cli.authority import Authority
from tests.servers.ports import free_port

from .manifests import overlay
from .test_settings import SECRETS, variables

SLUICE: Final = Path(sys.executable).with_name("sluice")
MODULES: Final = {"gateway": "sluice_gateway", "retrieval": "sluice_retrieval", "extractive": "sluice_providers"}
pytestmark = pytest.mark.slow


class Mesh:
    """The gateway, retrieval and one adapter of an overlay."""

    def __init__(self, name: str, folder: Path, files: dict[str, Path], stack: contextlib.ExitStack) -> None:
        self._found, self._folder, self._files, self._stack = overlay(name), folder, files, stack
        ports = {name: free_port() for name in ("gateway", "retrieval", "extractive", "internal")}
        self._local = {
            "gateway-pods:7402": f"localhost:{ports['internal']}",
            "0.0.0.0:7402": f"127.0.0.1:{ports['internal']}",
            "//retrieval:7410": f"//localhost:{ports['retrieval']}",
            "//extractive:7411": f"//localhost:{ports['extractive']}",
            "/etc/sluice-keys": str(files["/etc/sluice-keys"]),
        }
        self._ports = ports
        self.address = f"127.0.0.1:{ports['gateway']}"

    def _here(self, text: str) -> str:
        for there, here in self._local.items():
            text = text.replace(there, here)
        return text

    def start(self, name: str, *more: str) -> subprocess.Popen[str]:
        """Starts a service as its pod would, and waits until it serves."""
        one = next(one for one in self._found.workloads() if one["metadata"]["name"] == name)
        environment = {key: self._here(value) for key, value in variables(one, self._files).items()}
        environment = {key: value for key, value in environment.items() if "QDRANT" not in key and "STORE" not in key}
        environment.pop("SLUICE_TELEMETRY__METRICS", None)  # it would be one port for all
        environment.pop("SLUICE_TELEMETRY__OTLP", None)  # no collector is here
        path = self._folder / f"{name}.yaml"
        path.write_text(self._here(self._found.settings()), encoding="utf-8")
        section = name if name in ("gateway", "retrieval") else f"providers.{name}"
        sets = [f"{section}.listen=127.0.0.1:{self._ports[name]}", f"{section}.probe=unix:{self._folder}/{name}.probe"]
        sets += [f"state_dir={self._folder / name}", *more]
        command = [sys.executable, "-m", MODULES[name], *(word for one in sets for word in ("--set", one))]
        if name == "extractive":
            command += ["--integration", name]
        environment |= {"SLUICE_CONFIG": str(path), "HOME": str(self._folder), "PATH": "/usr/bin:/bin"}
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self._stack.callback(self._end, process)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("{") and json.loads(line).get("message") == "serving":
                return process
        raise AssertionError("".join(said))

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        try:
            rest = process.stderr.read()
            assert process.wait(60) == 0, rest
        finally:
            process.kill()
            process.stderr.close()

    def run(self, *words: str, key: str = "") -> list[Any]:
        """Runs a command of sluice against the gateway and returns the objects that it printed."""
        environment = {"HOME": str(self._folder), "PATH": "/usr/bin:/bin", "SLUICE_ADDRESS": self.address}
        if key:
            environment["SLUICE_API_KEY"] = key
        ended = subprocess.run([SLUICE, *words, "--json"], env=environment, check=False, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr + ended.stdout
        return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as found:
        yield found


def test_the_laptops_mesh_answers(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    mesh = Mesh("laptop", tmp_path, {"/etc/sluice-keys": tmp_path, "/etc/sluice-mesh": tmp_path}, stack)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "tides.md").write_text("# Tides\n\nThe tide turns twice a day.\n", encoding="utf-8")
    mesh.start("gateway")  # first, because the order is anyone's
    mesh.start("extractive")
    mesh.start("retrieval", f"retrieval.allowed_roots=[{tmp_path}]")
    mesh.run("index", str(tmp_path / "notes"), "--name", "notes")
    answer = mesh.run("ask", "When does the tide turn?", "--corpus", "notes")
    assert "twice a day" in json.dumps(answer)


def test_the_mesh_of_production_is_whole_behind_keys_and_certificates(
    tmp_path: Path, stack: contextlib.ExitStack, postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SECRETS, ("sluice-postgres", "url"), postgres_url)
    monkeypatch.setitem(SECRETS, ("sluice-redis", "url"), redis_url)
    made = json.loads(subprocess.check_output([SLUICE, "keys", "new", "--role", "admin", "--json"], text=True))
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump({"keys": [made["row"]]}), encoding="utf-8")
    authority = Authority.create(tmp_path / "ca", "sluice.local", "sluice")
    for name in MODULES:
        authority.issue(name, datetime.timedelta(hours=1))
    files = {"/etc/sluice-keys": tmp_path, "/etc/sluice-mesh": tmp_path / "ca"}
    mesh = Mesh("production", tmp_path, files, stack)
    mesh.start("extractive")
    mesh.start("retrieval", "retrieval.replicas=1")  # more of them need Qdrant, which is not here
    mesh.start("gateway")
    (status,) = mesh.run("status", key=made["key"])
    assert status["retrieval"]["state"] == "available"
    health = {one["id"]: one["health"]["state"] for one in status["integrations"]}
    assert health.pop("extractive") == "HEALTH_STATE_AVAILABLE"
    assert set(health.values()) == {"HEALTH_STATE_UNREACHABLE"}, "those that were not started"
    with pytest.raises(AssertionError, match="key"):
        mesh.run("status")
