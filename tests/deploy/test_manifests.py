"""Every manifest is what Kubernetes and its extensions take, each overlay and every combination of components included."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice_providers.registry import REGISTRY

from ..repo.house import SERVICES  # noqa: TID252 - what the meta-tests know about the tree
from .images import ROOT, images
from .manifests import (
    COMPONENTS,
    FOLDER,
    OVERLAYS,
    Rendered,
    combinations,
    combined,
    read,
    scripts,
)
from .policies import violations
from .schemas import mistake

KUSTOMIZATIONS = sorted(FOLDER.rglob("kustomization.yaml"))
NO_PROCESS = {"scripted"}
"""Adapters that no deployment has: tests speak to it."""


@pytest.fixture(scope="module")
def renderer() -> list[str]:
    """What renders a folder. Without one, what is committed as rendered is tested all the same."""
    found: list[str] | None = scripts.renderer()
    if found is None:
        pytest.skip("there is neither kustomize nor kubectl on PATH, nor a Go that can build kustomize")
    return found


def name_of(path: Path) -> str:
    return path.parent.relative_to(FOLDER).as_posix()


def kustomization(path: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def files_named(text: Mapping[str, Any]) -> list[str]:
    """The files and folders that a kustomization takes."""
    named = [*text.get("resources", ()), *text.get("components", ())]
    named += [patch["path"] for patch in text.get("patches", ()) if "path" in patch]
    return named + [name for one in text.get("configMapGenerator", ()) for name in one.get("files", ())]


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=name_of)
def test_a_kustomization_takes_every_file_beside_it_and_nothing_that_is_not_there(path: Path) -> None:
    named = files_named(kustomization(path))
    beside = {one.name for one in path.parent.iterdir()} - {"kustomization.yaml"}
    assert beside == {name for name in named if not name.startswith("..")}
    for name in named:
        assert (path.parent / name).exists(), name
    generates = {"secretGenerator", "helmCharts", "generators"} & set(kustomization(path))
    assert not generates


def sources() -> list[Path]:
    return [
        path.parent / name
        for path in KUSTOMIZATIONS
        for name in kustomization(path).get("resources", ())
        if not name.startswith("..")
    ]


@pytest.mark.parametrize("path", sources(), ids=lambda path: f"{name_of(path)}/{path.name}")
def test_each_file_is_valid_by_itself(path: Path) -> None:
    found = read(path.read_text(encoding="utf-8"))
    assert found
    assert [wrong for one in found if (wrong := mistake(one))] == []


@pytest.mark.parametrize("name", [*REGISTRY, *(name.removeprefix("sluice_") for name in SERVICES)])
def test_each_service_and_each_adapter_has_a_file_and_an_image(name: str) -> None:
    if name in NO_PROCESS or name == "providers":  # a process for each adapter
        return
    found = read((FOLDER / "base" / f"{name}.yaml").read_text(encoding="utf-8"))
    kinds = {one["kind"] for one in found}
    assert kinds >= {"ServiceAccount", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    (workload,) = (one for one in found if one["kind"] in ("Deployment", "StatefulSet"))
    image = workload["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.removeprefix("sluice/").partition(":")[0] in images()
    settings = yaml.safe_load((FOLDER / "base" / "sluice.yaml").read_text(encoding="utf-8"))
    if name in REGISTRY:
        assert settings["gateway"]["integrations"][name] == {"address": f"dns:///{name}:7411"}
        assert set(settings["providers"][name]) == {"listen", "probe"}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda one: one.name)
def test_what_an_overlay_renders_to_is_valid(overlay: Rendered) -> None:
    assert [wrong for one in overlay.manifests if (wrong := mistake(one))] == []
    assert {one["metadata"].get("namespace") for one in overlay.manifests if one["kind"] != "Namespace"} == {"sluice"}
    keys = [(one["kind"], one["metadata"]["name"]) for one in overlay.manifests]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", scripts.OVERLAYS)
def test_what_is_committed_as_rendered_is_current(name: str) -> None:
    text = (scripts.RENDERED / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith(scripts.header()), "run `make manifests`"


def test_the_alerts_of_the_cluster_are_those_of_the_page() -> None:
    assert scripts.RULES.read_text(encoding="utf-8") == scripts.rules(), "run `make manifests`"
    (rule,) = read(scripts.rules())
    assert rule["spec"] == yaml.safe_load(scripts.ALERTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", scripts.OVERLAYS)
def test_what_is_committed_as_rendered_is_what_is_rendered(name: str, renderer: list[str]) -> None:
    text = (scripts.RENDERED / f"{name}.yaml").read_text(encoding="utf-8")
    assert read(scripts.render(renderer, FOLDER / "overlays" / name)) == read(text), "run `make manifests`"


@pytest.mark.parametrize("components", combinations(), ids=lambda names: "+".join(names) or "none")
def test_components_go_together(components: tuple[str, ...], renderer: list[str], tmp_path: Path) -> None:
    for part in ("base", "components"):
        shutil.copytree(FOLDER / part, tmp_path / part)
    found = combined(renderer, components, tmp_path / "combined")
    assert [wrong for one in found.manifests if (wrong := mistake(one))] == []
    if "autoscaling" not in components or "postgres" in components:  # else its volume keeps the gateway to one
        assert violations(found) == []
    names = {one["metadata"]["name"] for one in found.of("StatefulSet")}
    assert names & {"qdrant", "postgres", "redis"} == set(components) & {"qdrant", "postgres", "redis"}


def test_what_cannot_be_rendered_is_an_error(renderer: list[str], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="kustomization"):
        scripts.render(renderer, tmp_path)


def test_the_check_finds_mistakes() -> None:
    good = read((FOLDER / "base" / "namespace.yaml").read_text(encoding="utf-8"))[0]
    assert mistake(good) is None
    assert "labells" in str(mistake({**good, "metadata": {"name": "x", "labells": {}}}))
    assert "no schema" in str(mistake({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x"}}))
    route = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute", "metadata": {"name": "x"}}
    assert "timeouts" in str(mistake({**route, "spec": {"rules": [{"timeouts": {"request": "0s"}}]}}))


def test_every_component_is_used_by_an_overlay() -> None:
    used = {
        Path(name).name
        for path in KUSTOMIZATIONS
        if path.parent.parent.name == "overlays"
        for name in kustomization(path).get("components", ())
    }
    assert used == set(COMPONENTS)


def test_the_page_tells_every_secret_and_every_folder() -> None:
    page = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    text = "".join(path.read_text(encoding="utf-8") for path in (FOLDER / "rendered").iterdir())
    text += "".join(path.read_text(encoding="utf-8") for path in sources())
    secrets = set(re.findall(r"\bname: (sluice-[a-z]+)(?:, key|, optional|\n *key)", text))
    secrets |= set(re.findall(r"secretName: (sluice-[a-z-]+)", text)) | {"sluice-public-tls"}
    assert len(secrets) > 10
    assert [secret for secret in sorted(secrets) if f"`{secret}`" not in page] == []
    beside = {path.name for path in (ROOT / "deploy").iterdir()} - {"README.md", "k8s", "compose.env"}
    beside |= {f"k8s/{path.name}" for path in FOLDER.iterdir()}
    assert [name for name in sorted(beside) if f"]({name})" not in page and f"]({name}/)" not in page] == []
