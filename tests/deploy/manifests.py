"""The manifests as data: the sources, what the overlays render to, and what other combinations of components do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from ..repo.house import load_script  # noqa: TID252 - what the meta-tests know about the tree

scripts = load_script("manifests")
FOLDER: Final[Path] = scripts.FOLDER
COMPONENTS: Final = tuple(sorted(path.name for path in (FOLDER / "components").iterdir()))
OWN: Final = ("gateway", "adapter", "retrieval")
"""Values of the label app.kubernetes.io/component that are services of the mesh; `store` is everything else."""

Manifest = Mapping[str, Any]
try:
    _Loader: Any = yaml.CSafeLoader
except AttributeError:  # PyYAML without its C part: the same, only slower
    _Loader = yaml.SafeLoader


def read(text: str) -> list[Manifest]:
    """Returns the documents of a text."""
    return [found for found in yaml.load_all(text, _Loader) if found]


@dataclass(frozen=True)
class Rendered:
    """What a cluster would be given."""

    name: str
    manifests: tuple[Manifest, ...]

    def of(self, *kinds: str) -> Iterator[Manifest]:
        """Yields those of some kinds."""
        return (one for one in self.manifests if one["kind"] in kinds)

    def one(self, kind: str, name: str) -> Manifest:
        """Returns one by name."""
        (found,) = (one for one in self.of(kind) if one["metadata"]["name"] == name)
        return found

    def workloads(self, *components: str) -> Iterator[Manifest]:
        """Yields what runs pods, of some components or of all."""
        for one in self.of("Deployment", "StatefulSet"):
            if not components or component_of(one) in components:
                yield one

    def settings(self) -> str:
        """Returns the sluice.yaml in it."""
        (found,) = (one for one in self.of("ConfigMap") if one["metadata"]["name"].startswith("sluice-config"))
        return str(found["data"]["sluice.yaml"])


def component_of(manifest: Manifest) -> str:
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def pod_of(workload: Manifest) -> Mapping[str, Any]:
    found: Mapping[str, Any] = workload["spec"]["template"]["spec"]
    return found


@cache
def overlay(name: str) -> Rendered:
    """Returns an overlay as it is committed in rendered/."""
    return Rendered(name, tuple(read((FOLDER / "rendered" / f"{name}.yaml").read_text(encoding="utf-8"))))


OVERLAYS: Final = tuple(overlay(name) for name in scripts.OVERLAYS)


def combinations() -> list[tuple[str, ...]]:
    """Returns which components are put together: none, each alone, all but each, and all."""
    sizes = (0, 1, len(COMPONENTS) - 1, len(COMPONENTS))
    found = {names for size in sizes for names in itertools.combinations(COMPONENTS, size)}
    return sorted(found, key=lambda names: (len(names), names))


def combined(command: list[str], components: tuple[str, ...], folder: Path) -> Rendered:
    """Renders the base with some components, by way of a kustomization in a folder below deploy/k8s's copy."""
    folder.mkdir()
    text = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../base"],
        "components": [f"../components/{name}" for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
    return Rendered("+".join(("base", *components)), tuple(read(scripts.render(command, folder))))
