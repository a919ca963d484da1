"""Each pod's configuration, its variables included, is one that its service takes."""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import pytest

from sluice_cli.authority import Authority
from sluice_kit.config import AuthConfig, ConfigDocument, load
from sluice_kit.telemetry import TelemetryConfig
from sluice_kit.tls import mesh_tls

from .images import images
from .manifests import FOLDER, OVERLAYS, Manifest, Rendered, component_of, pod_of

SECRETS: Final = {
    ("sluice-postgres", "url"): "postgresql://sluice:secret@postgres:5432/sluice",
    ("sluice-redis", "url"): "redis://:secret@redis:6379/0",
    ("sluice-qdrant", "api-key"): "secret",
}
"""What the Secrets hold, in the form that the components' comments give."""
PODS: Final = [(found, one) for found in OVERLAYS for one in found.workloads("gateway", "adapter", "retrieval")]


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the pods mount beside their configuration: a file of keys, and a certificate for each service."""
    folder = tmp_path_factory.mktemp("mounted")
    (folder / "keys.yaml").write_text("keys: []\n", encoding="utf-8")
    authority = Authority.create(folder / "ca", "sluice.local", "sluice")
    for _, one in PODS:
        authority.issue(one["metadata"]["name"], datetime.timedelta(hours=1))
    return {"/etc/sluice-keys": folder, "/etc/sluice-mesh": folder / "ca"}


def variables(one: Manifest, files: dict[str, Path]) -> dict[str, str]:
    """The environment of a pod, with the files where the test has them."""
    (container,) = pod_of(one)["containers"]
    found = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            value = SECRETS[source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]]
        elif "fieldRef" in source:
            value = {"metadata.namespace": one["metadata"]["namespace"]}[source["fieldRef"]["fieldPath"]]
        else:
            value = variable["value"]
        found[variable["name"]] = value
    name, folder = one["metadata"]["name"], files["/etc/sluice-mesh"]
    local = {
        "/etc/sluice-mesh/tls.crt": folder / f"{name}.pem",
        "/etc/sluice-mesh/tls.key": folder / f"{name}.key",
        "/etc/sluice-mesh/ca.crt": folder / "ca.pem",
    }
    return {key: str(local.get(value, value)) for key, value in found.items()}


def document(found: Rendered, one: Manifest, files: dict[str, Path], folder: Path) -> ConfigDocument:
    path = folder / "sluice.yaml"
    text = found.settings().replace("/etc/sluice-keys", str(files["/etc/sluice-keys"]))
    path.write_text(text, encoding="utf-8")
    return load(path, [f"state_dir={folder}"], variables(one, files))


@pytest.mark.parametrize(
    ("found", "one"), PODS, ids=lambda one: one.name if isinstance(one, Rendered) else one["metadata"]["name"]
)
def test_a_pod_starts_with_its_configuration(
    found: Rendered, one: Manifest, mounted: dict[str, Path], tmp_path: Path
) -> None:
    name = one["metadata"]["name"]
    read = document(found, one, mounted, tmp_path)
    service = {"adapter": "providers"}.get(component_of(one), component_of(one))
    (entry,) = entry_points(group="sluice.services", name=service)
    made: Any = entry.load()(read, argparse.Namespace(integration=name))
    (container,) = pod_of(one)["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert made.listen == f"0.0.0.0:{ports['grpc']}"
    assert made.probe == f"0.0.0.0:{ports['probe']}"
    metrics = read.section("telemetry", TelemetryConfig).metrics
    assert metrics == (f"0.0.0.0:{ports['metrics']}" if "metrics" in ports else None)
    command = images()[container["image"].rpartition("/")[2].partition(":")[0]].command
    assert command.startswith("python -m sluice_")
    assert command.endswith(name)


def test_inside_production_everyone_shows_a_certificate(mounted: dict[str, Path], tmp_path: Path) -> None:
    for found, one in PODS:
        if found.name == "production":
            read = document(found, one, mounted, tmp_path)
            assert read.section("auth", AuthConfig).mode == "keys"
            assert mesh_tls(read) is not None


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("sluice.yaml")), ids=lambda path: path.parent.name)
def test_sluice_takes_the_file(path: Path, mounted: dict[str, Path], tmp_path: Path) -> None:
    """As a person checks it: with the addresses of the stores in variables, as in a pod."""
    text = path.read_text(encoding="utf-8").replace("/etc/sluice-keys", str(mounted["/etc/sluice-keys"]))
    (tmp_path / "sluice.yaml").write_text(text, encoding="utf-8")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    if path.parent.name == "production":
        pod = next(one for found, one in PODS if found.name == "production" and component_of(one) == "gateway")
        retrieval = next(one for found, one in PODS if found.name == "production" and component_of(one) == "retrieval")
        environment |= variables(retrieval, mounted) | variables(pod, mounted)
    ended = subprocess.run(
        [Path(sys.executable).with_name("sluice"), "config", "check", tmp_path / "sluice.yaml"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
