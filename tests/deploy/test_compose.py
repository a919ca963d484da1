"""deploy/compose.yaml: its form, its rules, the configuration in it, and that its Redis starts with a password nobody sees."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from scripts.servers import REDIS, find, why_not
from sluice_kit.config import load
from tests.servers.kept import Kept

from .images import ROOT, images
from .manifests import overlay, pod_of
from .schemas import validator

DEPLOY: Final = ROOT / "deploy"
TEXT: Final = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(TEXT)
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = [name for name, one in SERVICES.items() if "build" in one]
EXAMPLE: Final = (DEPLOY / "compose.env.example").read_text(encoding="utf-8")
PROGRAMS: Final = find(REDIS)
SETTINGS: Final = yaml.safe_load((DEPLOY / "compose" / "sluice.yaml").read_text(encoding="utf-8"))


def resolved(text: str) -> str:
    """A value as Compose makes it: variables by a value of their own or by their default."""
    return re.sub(r"\$\{(\w+)(?::([-?])([^}]*))?\}", lambda m: m[3] if m[2] == "-" else "given", text)


def test_it_has_the_form_of_the_specification() -> None:
    assert [f"{error.instance_path}: {error.message}" for error in validator("compose").iter_errors(COMPOSE)] == []


def test_the_check_of_its_form_finds_mistakes() -> None:
    wrong = COMPOSE | {"services": {"gateway": {"read_onyl": True}}}
    assert not validator("compose").is_valid(wrong)


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], check=False, capture_output=True).returncode != 0,
    reason="Docker's compose plugin is not installed; the form is checked by its schema all the same",
)
def test_compose_takes_it(tmp_path: Path) -> None:
    environment = tmp_path / "compose.env"
    environment.write_text(re.sub(r"(?m)^(\w+)=$", r"\1=x", EXAMPLE), encoding="utf-8")
    command = ["docker", "compose", "--file", str(DEPLOY / "compose.yaml"), "--env-file", str(environment)]
    subprocess.run([*command, "config", "--quiet"], check=True)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_than_it_needs(name: str) -> None:
    one = SERVICES[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", one["user"])
    assert one["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert one["healthcheck"]["test"][0] == "CMD"
    assert not one.keys() & {"privileged", "network_mode", "pid", "cap_add", "devices"}
    image, _, tag = one["image"].rpartition(":")
    assert re.search(r"\d+\.\d+", tag)
    if name in OURS:
        assert one["build"]["args"]["SERVICE"] == image.removeprefix("sluice/")
        assert one["build"]["args"]["SERVICE"] in images()
    else:  # the same versions as in the cluster
        same = pod_of(overlay("production").one("StatefulSet", name))
        assert one["image"] == same["containers"][0]["image"]
    mounted = [volume.partition(":")[0] for volume in one.get("volumes", ())]
    assert set(mounted) <= set(COMPOSE["volumes"]), "a folder of the host"


def test_only_the_gateway_is_published_and_networks_are_as_narrow_as_can_be() -> None:
    assert {name for name, one in SERVICES.items() if "ports" in one or "expose" in one} == {"gateway"}
    assert [resolved(port) for port in SERVICES["gateway"]["ports"]] == ["127.0.0.1:7400:7400"]
    open_networks = {name for name, one in COMPOSE["networks"].items() if not one.get("internal")}
    assert open_networks == {"front", "out"}
    members = {
        network: {name for name, one in SERVICES.items() if network in one["networks"]}
        for network in COMPOSE["networks"]
    }
    adapters = set(SETTINGS["providers"])
    assert members == {
        "front": {"gateway"},
        "out": {"retrieval", *(adapters - {"extractive"})},
        "adapters": {"gateway", *adapters},
        "search": {"gateway", "retrieval"},
        "records": {"gateway", "retrieval", "postgres"},
        "vectors": {"retrieval", "qdrant"},
        "log": {"gateway", "redis"},
    }


def test_secrets_stand_in_the_file_that_git_ignores() -> None:
    wanted = set(re.findall(r"\$\{(\w+)", TEXT))
    assert wanted == set(re.findall(r"(?m)^(\w+)=", EXAMPLE))
    for line in EXAMPLE.splitlines():
        if re.match(r"\w*(KEY|PASSWORD)\w*=", line) and not line.startswith("SLUICE_KEYS"):
            assert line.endswith("="), "an example holds no secret"
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/deploy/compose.env" in ignored
    assert not re.search(r"(?i)(password|api_key)\w*:\s*(?!\$\{|\")[\w]", TEXT)


def test_it_stops_with_patience() -> None:
    drain = SETTINGS["server"]["drain_seconds"]
    limits = [SETTINGS["gateway"]["limits"], *SETTINGS["gateway"]["routes"].values()]
    assert drain > max(one["total_seconds"] for one in limits)
    for name in OURS:
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) >= drain + 15


@pytest.mark.parametrize("name", OURS)
def test_each_takes_its_configuration(name: str, tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "compose" / "sluice.yaml", tmp_path)
    (tmp_path / "keys.yaml").write_text("keys: []\n", encoding="utf-8")
    variables = {key: resolved(value) for key, value in SERVICES[name]["environment"].items()}
    assert variables.pop("SLUICE_CONFIG") == SERVICES[name]["configs"][0]["target"]
    document = load(tmp_path / "sluice.yaml", [f"state_dir={tmp_path}"], variables)
    (entry,) = entry_points(group="sluice.services", name=name if name in ("gateway", "retrieval") else "providers")
    made: Any = entry.load()(document, argparse.Namespace(integration=name))
    address = SETTINGS["gateway"]["integrations"].get(name, SETTINGS["gateway"]["retrieval"])["address"]
    if name != "gateway":
        assert address == f"dns:///{name}:{made.listen.rpartition(':')[2]}"
    assert made.probe in SERVICES[name]["healthcheck"]["test"]


def test_every_service_of_its_configuration_runs() -> None:
    assert set(OURS) == {"gateway", "retrieval", *SETTINGS["providers"]}
    assert SETTINGS["providers"].keys() == SETTINGS["gateway"]["integrations"].keys()


WRAPPER: Final = """#!/bin/sh
# The server itself, on a socket instead of a port and in a folder of its own; the last argument stays the last.
echo "$*" > {folder}/arguments
set -- $(echo "$*" | sed 's, -$,,; s,--dir [^ ]*,,; s,/etc/redis/,{folder}/,')
exec {server} "$@" --dir {folder} --port 0 --unixsocket {folder}/redis.sock -
"""


@pytest.mark.skipif(PROGRAMS is None, reason=f"Redis is not there: {why_not(REDIS)}")
@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_redis_gets_its_password_where_no_list_of_processes_shows_it(where: str, tmp_path: Path) -> None:
    import redis

    assert PROGRAMS is not None
    if where == "compose":
        command = [word.replace("$$", "$") for word in SERVICES["redis"]["command"]]
    else:
        (container,) = pod_of(overlay("production").one("StatefulSet", "redis"))["containers"]
        command = [*container["command"], *container["args"]]
        settings = overlay("production").one("ConfigMap", "redis")["data"]["redis.conf"]
        (tmp_path / "redis.conf").write_text(settings.replace("/data", str(tmp_path)), encoding="utf-8")
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "redis-server"
    wrapper.write_text(WRAPPER.format(folder=tmp_path, server=PROGRAMS.folder / "redis-server"), encoding="utf-8")
    wrapper.chmod(0o755)
    environment = {**PROGRAMS.environment, "PATH": f"{wrapper.parent}:/usr/bin:/bin", "REDISCLI_AUTH": "geheim"}
    server = Kept(command, tmp_path, environment)
    try:
        server.wait_for((tmp_path / "redis.sock").exists)
        # It took the shell's place, so it is what a container's SIGTERM meets.
        assert Path(f"/proc/{server.pid}/comm").read_text(encoding="utf-8") == "redis-server\n"
        with redis.Redis(unix_socket_path=str(tmp_path / "redis.sock"), password="geheim") as client:
            assert client.ping()
            assert client.config_get("appendonly")["appendonly"] == "yes"
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        with (
            redis.Redis(unix_socket_path=str(tmp_path / "redis.sock")) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
        assert "geheim" not in (tmp_path / "arguments").read_text(encoding="utf-8")
    finally:
        server.end()


def test_what_answers_need_stops_after_the_gateway() -> None:
    """Compose stops a service before what it depends on: a drain needs the stores and the adapters to its end."""
    behind = {name: set(one.get("depends_on", ())) for name, one in SERVICES.items()}
    assert behind["gateway"] == set(SERVICES) - {"gateway", "qdrant"}
    assert behind["retrieval"] == {"postgres", "qdrant"}
