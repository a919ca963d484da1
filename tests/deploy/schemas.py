"""Checks a manifest against the schema of its kind, strictly: an unknown field is a mistake."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

import jsonschema_rs
import kubernetes_validate  # type: ignore[import-untyped]  # it has annotations, but no py.typed

from .images import ROOT
from .manifests import Manifest

FOLDER: Final = ROOT / "deploy" / "schemas"
VERSIONS: Final = ("1.30", "1.37")
"""The oldest Kubernetes that the manifests are for, and the newest whose schemas are at hand."""


@cache
def validator(name: str) -> Any:
    """Returns what checks against deploy/schemas/<name>.json."""
    return jsonschema_rs.validator_for(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


def mistake(manifest: Manifest) -> str | None:
    """Returns the first thing that is wrong with a manifest; None if it is what its kind may be."""
    return _mistake(json.dumps(manifest, sort_keys=True))


@cache
def _mistake(text: str) -> str | None:
    manifest = json.loads(text)
    where = f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"
    own = str(manifest.get("kind")).lower()
    if (FOLDER / f"{own}.json").is_file():
        found = next(validator(own).iter_errors(manifest), None)
        return None if found is None else f"{where}: {'.'.join(map(str, found.instance_path))}: {found.message}"
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            return f"{where}: {'.'.join(map(str, error.path))}: {error.message} (Kubernetes {version})"
        except kubernetes_validate.SchemaNotFoundError:
            return f"{where}: no schema of {manifest.get('apiVersion')}"
    return None
