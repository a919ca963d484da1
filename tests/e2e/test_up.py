"""`sluice up`: what crashes comes back, what is wrong is named, and nothing is left, however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .processes import SECONDS, SLUICE, Mesh, Up, environment, marked, on_terminal, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/environ").exists(), reason="processes are found by their environment in /proc"
    ),
]

SMALL: dict[str, Any] = {
    "providers": {"scripted": {"adapter": "scripted"}},
    "gateway": {"routes": {"default": {"targets": ["scripted/echo"]}}},
}


def runtime_dir(up: Up) -> Path:
    mesh_file = up.state_dir / "run" / "mesh.json"
    return Path(json.loads(mesh_file.read_text(encoding="utf-8"))["runtime_dir"])


def test_a_mesh_says_what_is_up_and_what_is_missing(mesh: Mesh) -> None:
    up = mesh.up
    assert up.garbage == []
    lines = {line["service"]: line for line in up.said if "service" in line}
    assert {name: line["state"] for name, line in lines.items()} == dict.fromkeys(
        ("extractive", "scripted", "openai", "retrieval", "gateway"), "up"
    )
    up.wait(lambda line: line.get("missing") == ["OPENAI_API_KEY"])
    assert lines["scripted"]["missing"] == []
    assert len({line["pid"] for line in lines.values()}) == len(lines)
    assert Path(lines["gateway"]["log"]) == up.state_dir / "logs" / "gateway.log"
    assert Path(lines["gateway"]["log"]).stat().st_size > 0
    folder = runtime_dir(up)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("extractive", "scripted", "openai", "retrieval"):
        assert lines[name]["address"].startswith(f"unix:{folder}/")
    # Nothing secret, and nothing at all but settings, stands in the arguments that others can see.
    for pid in (line["pid"] for line in lines.values()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        assert words[1:3] == ["-m", words[2]]
        assert "--until-stdin-closes" in words


def test_a_killed_service_is_restarted_and_serves_again(mesh: Mesh) -> None:
    mark = len(mesh.up.said)
    pid = [line["pid"] for line in mesh.up.said if line.get("service") == "scripted" and line.get("state") == "up"][-1]
    os.kill(pid, signal.SIGKILL)
    crashed = mesh.up.service("scripted", "crashed", mark)
    assert "SIGKILL" in crashed["detail"]
    back = mesh.up.service("scripted", "up", mark)
    assert back["pid"] != pid
    assert back["restarts"] == crashed["restarts"]
    until(
        lambda: "AVAILABLE" in str(mesh.json("status")[0]["integrations"]) and _answers(mesh), "it does not serve again"
    )


def _answers(mesh: Mesh) -> bool:
    result = subprocess.run(
        [str(SLUICE), "ask", "back?", "--model", "scripted/text?tokens=2"],
        env=mesh.environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    return result.returncode == 0 and result.stdout.split() == ["the", "mesh"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_in_order(tmp_path: Path, number: signal.Signals) -> None:
    up = Up(tmp_path, SMALL)
    assert up.address
    folder = runtime_dir(up)
    assert up.end(number) == 0
    stopped = [line["service"] for line in up.said if line.get("state") == "stopped"]
    assert stopped == ["gateway", "retrieval", "scripted"]
    assert marked(up.mark) == []
    assert not folder.exists()
    assert not (up.state_dir / "run" / "mesh.json").exists()


def test_nothing_outlives_a_killed_supervisor_and_another_starts_after_it(tmp_path: Path) -> None:
    up = Up(tmp_path, SMALL)
    assert up.address
    folder = runtime_dir(up)
    assert len(marked(up.mark)) >= 4
    assert up.end(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: not marked(up.mark), "orphans are left")
    again = Up(tmp_path, SMALL)
    try:
        assert again.address
        assert not folder.exists(), "what the killed one left is not cleaned up"
    finally:
        assert again.end() == 0


def test_it_ends_with_who_started_it(tmp_path: Path) -> None:
    up = Up(tmp_path, SMALL)
    assert up.address
    assert up.process.stdin is not None
    up.process.stdin.close()
    assert up.join() == 0
    assert marked(up.mark) == []


def test_only_one_runs_on_a_state_folder(mesh: Mesh) -> None:
    result = subprocess.run(
        [str(SLUICE), "up", "--port", "0", "--set", f"state_dir={mesh.up.state_dir}"],
        env=mesh.environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 1
    assert mesh.address in result.stderr
    assert str(mesh.up.process.pid) in result.stderr


def up_fails(folder: Path, config: str, *arguments: str) -> str:
    (folder / "sluice.yaml").write_text(f"state_dir: {folder}/state\n{config}", encoding="utf-8")
    result = subprocess.run(
        [str(SLUICE), "up", *(arguments or ("--port", "0"))],
        cwd=folder,
        env=environment(folder / "home"),
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    return result.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = up_fails(tmp_path, "", "--port", str(port))
    assert f"127.0.0.1:{port}" in said
    assert "--port" in said


def test_a_mistake_of_structure_is_named_with_its_line(tmp_path: Path) -> None:
    assert "sluice.yaml:3: no_such_section" in up_fails(tmp_path, "log: {}\nno_such_section: 1\n")


def test_a_mistake_that_only_the_service_sees_ends_the_mesh(tmp_path: Path) -> None:
    said = up_fails(tmp_path, "providers:\n  scripted: {adapter: scripted}\ngateway:\n  no_such_setting: 1\n")
    assert "gateway.no_such_setting: no such setting" in said
    assert "sluice.yaml:5" in said


def test_other_commands_find_the_mesh_by_its_state_folder(mesh: Mesh) -> None:
    variables = {name: value for name, value in mesh.environment.items() if name != "SLUICE_ADDRESS"}
    result = subprocess.run(
        [str(SLUICE), "status", "--json"],
        cwd=mesh.up.folder,
        env=variables,
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["gateway"]["address"] == mesh.address


def test_on_a_terminal_there_is_a_table(tmp_path: Path) -> None:
    variables = environment(tmp_path / "home")
    state = ["--set", f"state_dir={tmp_path}/state", "--set", "providers.scripted.adapter=scripted"]
    state += ["--set", "providers.openai.adapter=openai"]
    code, screen = on_terminal(["up", "--port", "0", *state], variables, stop_at="ready at")
    assert code == 0
    for word in ("service", "gateway", "retrieval", "missing: OPENAI_API_KEY", "gateway.log", f"{tmp_path}/state"):
        assert word in screen
    assert "\x1b[" in screen
