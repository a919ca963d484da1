"""Which processes make the mesh."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice_cli import mesh
from sluice_cli.mesh import MeshFile
from sluice_cli.supervisor import folders
from sluice_cli.supervisor.certificates import Certificates
from sluice_cli.supervisor.logfiles import LogFile
from sluice_cli.supervisor.plan import DEFAULT_INTEGRATIONS, ChildSpec, Plan, make_plan, why_taken
from sluice_kit.config import ConfigError, load


def plan_of(tmp_path: Path, settings: dict[str, Any], port: int | None = None) -> Plan:
    path = tmp_path / "sluice.yaml"
    path.write_text(yaml.safe_dump({"state_dir": "state", **settings}), encoding="utf-8")
    return make_plan(load(path, environ={}), ["log.level=debug"], Path("/run/x"), port)


def child(plan: Plan, name: str) -> ChildSpec:
    [found] = [one for one in plan.children if one.name == name]
    return found


def settings_of(spec: ChildSpec) -> dict[str, str]:
    words = spec.arguments
    pairs = [words[index + 1].partition("=") for index, word in enumerate(words) if word == "--set"]
    return {name: value for name, _, value in pairs}


def test_without_providers_the_default_ones_run_and_none_is_required(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {})
    providers = [one for one in plan.children if one.kind == "provider"]
    assert tuple(one.name for one in providers) == DEFAULT_INTEGRATIONS
    assert not any(one.required for one in providers)
    assert plan.children[-1].name == "gateway"
    assert plan.address == "127.0.0.1:7400"


def test_with_certificates_services_listen_on_ports_each_with_its_own(tmp_path: Path) -> None:
    path = tmp_path / "sluice.yaml"
    path.write_text(yaml.safe_dump({"state_dir": "state", "providers": {"mine": {"adapter": "scripted"}}}))
    certificates = Certificates(tmp_path / "tls")
    plan = make_plan(load(path, environ={}), [], Path("/run/x"), 7555, certificates)
    gateway = settings_of(child(plan, "gateway"))
    places = {gateway["gateway.integrations.mine.address"], gateway["gateway.retrieval.address"]}
    places.add(gateway["gateway.internal"])
    assert len(places) == 3
    assert all(place.startswith("127.0.0.1:") for place in places)
    for spec in plan.children:
        assert settings_of(spec)["tls.certificate"] == str(tmp_path / "tls" / f"{spec.name}.pem")
        assert settings_of(spec)["tls.ca"] == str(tmp_path / "tls" / "ca.pem")
        assert settings_of(spec)["tls.trust_domain"] == "sluice.local"
    assert not plan.secure


def test_a_door_with_tls_is_asked_for_its_health_elsewhere(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"gateway": {"tls": {"certificate": "x", "key": "y"}}})
    assert plan.secure
    gateway = child(plan, "gateway")
    assert gateway.probe == settings_of(gateway)["gateway.probe"] == "unix:/run/x/gateway-probe.sock"
    plan = plan_of(tmp_path, {"gateway": {"tls": {"certificate": "x", "key": "y"}, "probe": "127.0.0.1:7999"}})
    assert child(plan, "gateway").probe == "127.0.0.1:7999"


def test_everybody_is_told_where_the_others_are(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"providers": {"mine": {"adapter": "scripted"}}}, port=7555)
    assert child(plan, "mine").required
    assert child(plan, "mine").arguments[-2:] == ("--integration", "mine")
    assert settings_of(child(plan, "mine"))["providers.mine.listen"] == "unix:/run/x/p-mine.sock"
    gateway = settings_of(child(plan, "gateway"))
    assert gateway["gateway.listen"] == plan.address == "127.0.0.1:7555"
    assert gateway["gateway.integrations.mine.address"] == "unix:/run/x/p-mine.sock"
    assert gateway["gateway.retrieval.address"] == child(plan, "retrieval").address == "unix:/run/x/retrieval.sock"
    # Inside the mesh services speak for tenants, without a key, so not at the public address.
    inside = settings_of(child(plan, "retrieval"))["retrieval.gateway.address"]
    assert gateway["gateway.internal"] == inside == "unix:/run/x/gateway.sock"
    for spec in plan.children:
        assert settings_of(spec)["state_dir"] == str(tmp_path / "state")
        assert settings_of(spec)["log.level"] == "debug"
        assert spec.arguments[0] == "--until-stdin-closes"


def test_parts_that_are_elsewhere_get_no_process(tmp_path: Path) -> None:
    settings = {
        "providers": {"in": {"adapter": "scripted"}, "far": {"adapter": "scripted"}, "here": {"adapter": "scripted"}},
        "gateway": {
            "integrations": {"in": {"colocate": True}, "far": {"address": "10.0.0.9:1"}},
            "retrieval": {"address": "10.0.0.8:1"},
        },
    }
    plan = plan_of(tmp_path, settings)
    assert [one.name for one in plan.children] == ["here", "gateway"]
    assert plan.elsewhere == {"in": "inside the gateway", "far": "10.0.0.9:1", "retrieval": "10.0.0.8:1"}


def test_own_addresses_are_kept(tmp_path: Path) -> None:
    settings = {
        "providers": {"a": {"adapter": "scripted", "listen": "127.0.0.1:9"}},
        "retrieval": {"listen": "127.0.0.1:8"},
    }
    plan = plan_of(tmp_path, settings)
    assert child(plan, "a").address == "127.0.0.1:9"
    assert child(plan, "retrieval").address == "127.0.0.1:8"


def test_long_names_get_short_sockets(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"providers": {"x" * 64: {"adapter": "scripted"}}})
    path = tmp_path / "sluice.yaml"
    long = make_plan(load(path, environ={}), [], Path("/run/" + "y" * 50), None)
    assert child(plan, "x" * 64).address == f"unix:/run/x/p-{'x' * 64}.sock"
    assert child(long, "x" * 64).address == f"unix:/run/{'y' * 50}/p0.sock"


def test_port_0_is_a_free_one(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {}, port=0)
    host, _, port = plan.address.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    assert why_taken(plan.address) is None


def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert why_taken(f"127.0.0.1:{taken.getsockname()[1]}") == os.strerror(98)
    assert why_taken("unix:/x") is None


def test_a_listener_that_is_no_address_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sluice\.yaml:2: gateway\.listen"):
        plan_of(tmp_path, {"gateway": {"listen": "nonsense"}, "state_dir": "s"})


def test_one_lock_for_each_state_folder(tmp_path: Path) -> None:
    lock = folders.StateLock(tmp_path / "run")
    mesh.write_mesh_file(tmp_path / "run" / "mesh.json", MeshFile("127.0.0.1:1", os.getpid(), "/x", "/y"))
    with pytest.raises(folders.AlreadyRunning, match=r"127\.0\.0\.1:1"):
        folders.StateLock(tmp_path / "run")
    lock.release()
    folders.StateLock(tmp_path / "run").release()


def test_leftovers_are_removed_only_if_they_are_ours(tmp_path: Path) -> None:
    dead = 2**22 + 1  # above the largest process id of Linux
    ours, other = tmp_path / "sluice-abc", tmp_path / "precious"
    for folder in (ours, other):
        folder.mkdir()
        (folder / "file").touch()
        folders.remove_leftovers(MeshFile("a", os.getpid(), str(folder), ""))
        assert folder.exists(), "its mesh is alive"
        folders.remove_leftovers(MeshFile("a", dead, str(folder), ""))
    assert not ours.exists()
    assert other.exists()
    folders.remove_leftovers(MeshFile("a", dead, str(ours), ""))
    folders.remove_leftovers(None)


def test_the_runtime_folder_is_private() -> None:
    folder = folders.make_runtime_dir()
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(str(folder)) < 80
    finally:
        folder.rmdir()


def test_logs_are_kept_small_and_the_run_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.log").write_text("before\n", encoding="utf-8")
    log = LogFile(tmp_path, "a")
    assert (tmp_path / "a.log.1").read_text(encoding="utf-8") == "before\n"
    descriptor = log.open()
    os.write(descriptor, b"one\ntwo\nhal")
    assert log.new_lines() == ["one", "two"]
    os.write(descriptor, b"f\n")
    assert log.new_lines() == ["half"]
    monkeypatch.setattr("sluice_cli.supervisor.logfiles._MAX_BYTES", 4)
    log.rotate_if_large()
    assert log.size() == 0
    os.write(descriptor, b"after\n")
    assert log.new_lines() == ["after"]
    assert log.since(0) == "after\n"
    os.close(descriptor)


def test_the_mesh_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("SLUICE_CONFIG", raising=False)
    assert mesh.find(None, None).address == mesh.DEFAULT_ADDRESS
    secure = mesh.find("https://mesh.example:443/", "k")
    assert (secure.address, secure.tls, secure.key) == ("mesh.example:443", True, "k")
    run = tmp_path / "data" / "sluice" / "run"
    run.mkdir(parents=True)
    mesh.write_mesh_file(run / "mesh.json", MeshFile("127.0.0.1:5", os.getpid(), "", ""))
    assert mesh.find(None, None).address == "127.0.0.1:5"
    (tmp_path / "sluice.yaml").write_text("state_dir: elsewhere\n", encoding="utf-8")
    assert mesh.find(None, None).address == mesh.DEFAULT_ADDRESS
    (run / "mesh.json").write_text("{", encoding="utf-8")
    (tmp_path / "sluice.yaml").unlink()
    assert mesh.find(None, None).address == mesh.DEFAULT_ADDRESS
