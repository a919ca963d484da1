"""Write deploy/k8s/rendered/: what kustomize makes of each overlay, for people without it and for the tests.

And before that the PrometheusRule of the component prometheus, which is deploy/observability's alert rules in its form.

Each file begins with a digest of everything under deploy/k8s that could have gone into it, so that tests see without
kustomize whether it is what the sources say. It takes `kustomize` or `kubectl` from PATH; where there is only Go, it
builds kustomize with it, into build/.

    .venv/bin/python scripts/manifests.py
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "deploy" / "k8s"
RENDERED: Final = FOLDER / "rendered"
OVERLAYS: Final = ("laptop", "production")
ALERTS: Final = ROOT / "deploy" / "observability" / "prometheus" / "alerts.yaml"
RULES: Final = FOLDER / "components" / "prometheus" / "rules.yaml"
_MODULE: Final = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1"
_SCHEMES: Final = ("base", "components", "overlays")


def renderer() -> list[str] | None:
    """Returns the command that renders the folder put behind it; None where there is neither it nor a way to it."""
    if found := shutil.which("kustomize"):
        return [found, "build"]
    if found := shutil.which("kubectl"):
        return [found, "kustomize"]
    built = ROOT / "build" / "tools" / "kustomize"
    go = shutil.which("go")
    if go is not None and not built.exists():
        environment = dict(os.environ, GOBIN=str(built.parent), GOFLAGS="-trimpath -buildvcs=false", CGO_ENABLED="0")
        ended = subprocess.run([go, "install", _MODULE], cwd=os.sep, env=environment, check=False)
        if ended.returncode != 0:
            print("manifests: kustomize could not be built; Go says why above", file=sys.stderr)
    return [str(built), "build"] if built.exists() else None


def render(command: list[str], folder: Path) -> str:
    """Returns what a folder with a kustomization renders to. Raises RuntimeError with what the command said."""
    ended = subprocess.run([*command, str(folder)], check=False, capture_output=True, text=True)
    if ended.returncode != 0:
        raise RuntimeError(f"{folder}: {ended.stderr.strip()}")
    return ended.stdout


def digest() -> str:
    """Returns what the sources are, as one number."""
    found = hashlib.sha256()
    for path in sorted(path for part in _SCHEMES for path in (FOLDER / part).rglob("*") if path.is_file()):
        found.update(path.relative_to(FOLDER).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def header() -> str:
    """Returns how each file begins."""
    return f"# Made by `make manifests` from deploy/k8s, which is what to edit. Sources: sha256:{digest()}\n"


def rules() -> str:
    """Returns the alert rules as a PrometheusRule."""
    indented = "".join(f"  {line}".rstrip() + "\n" for line in ALERTS.read_text(encoding="utf-8").splitlines())
    return (
        "# Made by `make manifests` from deploy/observability/prometheus/alerts.yaml, which is what to edit.\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: sluice}\nspec:\n" + indented
    )


def main() -> int:
    """Renders every overlay."""
    RULES.write_text(rules(), encoding="utf-8")
    command = renderer()
    if command is None:
        print("manifests: neither kustomize nor kubectl nor Go is on PATH", file=sys.stderr)
        return 1
    RENDERED.mkdir(exist_ok=True)
    for name in OVERLAYS:
        text = render(command, FOLDER / "overlays" / name)
        (RENDERED / f"{name}.yaml").write_text(header() + text, encoding="utf-8")
        print(f"manifests: deploy/k8s/rendered/{name}.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
