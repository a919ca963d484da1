"""Write deploy/schemas/: the JSON Schemas of what deploy/ uses beside Kubernetes' own kinds, for tests without a network.

They come from the definitions that each project publishes, at the versions of SOURCES, by Go's module proxy; so this needs
Go and the network, and the tests do not. Descriptions and rules that JSON Schema cannot say are left out, unknown fields
become errors, and of very large definitions only the parts that deploy/k8s uses are kept.

    .venv/bin/python scripts/schemas.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "deploy" / "schemas"
_STANDARD: Final = "config/crd/standard/gateway.networking.k8s.io_"
_ENVOY: Final = "charts/gateway-crds-helm/templates/generated/gateway.envoyproxy.io_"
_MONITORING: Final = "example/prometheus-operator-crd/monitoring.coreos.com_"


@dataclass(frozen=True)
class Source:
    """One file of a Go module, all of which are under the Apache License 2.0."""

    module: str
    version: str
    path: str
    api: str = "v1"
    keep: tuple[str, ...] = ()
    """Fields of `spec` that are kept; empty: all."""


GATEWAY_API: Final = ("sigs.k8s.io/gateway-api", "v1.6.0")
CERT_MANAGER: Final = ("github.com/cert-manager/cert-manager", "v1.21.2")
OPERATOR: Final = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
ENVOY: Final = ("github.com/envoyproxy/gateway", "v1.9.1")
SOURCES: Final[Mapping[str, Source]] = {
    "certificate": Source(*CERT_MANAGER, "deploy/crds/cert-manager.io_certificates.yaml"),
    "issuer": Source(*CERT_MANAGER, "deploy/crds/cert-manager.io_issuers.yaml", keep=("ca", "selfSigned")),
    "gateway": Source(*GATEWAY_API, f"{_STANDARD}gateways.yaml"),
    "grpcroute": Source(*GATEWAY_API, f"{_STANDARD}grpcroutes.yaml"),
    "backendtrafficpolicy": Source(
        *ENVOY, f"{_ENVOY}backendtrafficpolicies.yaml", api="v1alpha1", keep=("targetRefs", "timeout", "circuitBreaker")
    ),
    "clienttrafficpolicy": Source(
        *ENVOY, f"{_ENVOY}clienttrafficpolicies.yaml", api="v1alpha1", keep=("targetRefs", "http2")
    ),
    "podmonitor": Source(*OPERATOR, f"{_MONITORING}podmonitors.yaml"),
    "prometheusrule": Source(*OPERATOR, f"{_MONITORING}prometheusrules.yaml"),
    "compose": Source("github.com/compose-spec/compose-go/v2", "v2.16.2", "schema/compose-spec.json"),
}


def download(source: Source) -> Path:
    """Returns the folder of a module, fetched by Go and checked against its checksum database."""
    told = subprocess.run(
        ["go", "mod", "download", "-json", f"{source.module}@{source.version}"],
        cwd=os.sep,
        check=False,
        capture_output=True,
        text=True,
    )
    answer = json.loads(told.stdout or "{}")
    if told.returncode != 0 or "Dir" not in answer:
        raise SystemExit(f"schemas: {source.module}: {answer.get('Error') or told.stderr.strip()}")
    return Path(answer["Dir"])


def trimmed(node: Any, *, strict: bool) -> Any:
    """Returns a schema without words for people; `strict`: and without room for unknown fields."""
    if isinstance(node, list):
        return [trimmed(one, strict=strict) for one in node]
    if not isinstance(node, dict):
        return node
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "patternProperties", "definitions") and isinstance(value, dict):
            found[key] = {name: trimmed(one, strict=strict) for name, one in value.items()}
        elif key in ("enum", "required", "default"):
            found[key] = value
        elif key not in ("description", "format", "nullable") and not key.startswith("x-kubernetes-"):
            found[key] = trimmed(value, strict=strict)
    closed = "properties" in found and "additionalProperties" not in found
    if strict and closed and not node.get("x-kubernetes-preserve-unknown-fields"):
        found["additionalProperties"] = False
    return found


def schema_of(source: Source, text: str) -> Any:
    """Returns the schema in a file: of a custom resource at the source's version, or the file itself."""
    if source.path.endswith(".json"):
        return trimmed(json.loads(text), strict=False)
    definition = next(part for part in yaml.safe_load_all(text.replace("{{", "#").replace("}}", "")) if part)
    (version,) = (one for one in definition["spec"]["versions"] if one["name"] == source.api)
    schema = trimmed(version["schema"]["openAPIV3Schema"], strict=True)
    properties = schema["properties"]
    properties["metadata"] = {"type": "object"}
    properties["apiVersion"]["const"] = f"{definition['spec']['group']}/{source.api}"
    properties["kind"]["const"] = definition["spec"]["names"]["kind"]
    properties.pop("status", None)
    if source.keep:
        spec = properties["spec"]
        spec["properties"] = {name: spec["properties"][name] for name in source.keep}
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return schema


def main() -> int:
    """Writes every schema."""
    FOLDER.mkdir(exist_ok=True)
    for name, source in SOURCES.items():
        text = (download(source) / source.path).read_text(encoding="utf-8")
        origin = f"{source.module}@{source.version}/{source.path} (Apache-2.0)"
        schema = {"$comment": f"Made by scripts/schemas.py from {origin}. Not edited.", **schema_of(source, text)}
        path = FOLDER / f"{name}.json"
        path.write_text(json.dumps(schema, sort_keys=True, separators=(",", ":")) + "\n", encoding="utf-8")
        print(f"schemas: {path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
