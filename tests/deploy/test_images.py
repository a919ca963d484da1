"""What an image holds: deploy/docker/build.sh is run as the Dockerfile runs it, and its result is put to work.

`make check` builds the gateway's and one adapter's; `make images-check` (SLUICE_IMAGES=all) builds every one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import yaml
from packaging.utils import canonicalize_name

from ..repo.house import load_script  # noqa: TID252 - what the meta-tests know about the tree
from .images import DOCKER, Image, images

lock = load_script("lock")
SAMPLE: Final = ("gateway", "providers-openai")
"""A service with a database, and an adapter with an SDK."""
BUILT: Final = tuple(images()) if os.environ.get("SLUICE_IMAGES") == "all" else SAMPLE
TOOLS: Final = {"pip", "setuptools", "wheel", "hatchling", "uv", "pytest", "mypy", "ruff", "grpcio-tools"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Built:
    """An image's prefix, as build.sh left it."""

    image: Image
    prefix: Path
    before: dict[str, tuple[int, int]]

    @property
    def python(self) -> list[str]:
        return [str(self.prefix / "bin" / "python"), "-I"]

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file with its size and the time of its last change."""
        found = {}
        for path in sorted(self.prefix.rglob("*")):
            stat = path.lstat()
            found[str(path.relative_to(self.prefix))] = (stat.st_size, stat.st_mtime_ns)
        return found

    def distributions(self) -> set[str]:
        code = "from importlib import metadata; print(*{d.name for d in metadata.distributions()})"
        return set(map(canonicalize_name, subprocess.check_output([*self.python, "-c", code], text=True).split()))


@pytest.fixture(scope="module", params=BUILT)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    image = images()[request.param]
    prefix = tmp_path_factory.mktemp("image") / "sluice"
    # Only what pip may be configured by: nothing of this environment helps the build.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "UV_"))}
    kept["PYTHON"] = sys.executable
    ended = subprocess.run(
        [str(DOCKER / "build.sh"), image.name, str(prefix)], env=kept, check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    found = Built(image, prefix, {})
    return Built(image, prefix, found.files())


def test_it_holds_its_lock_and_its_members_and_nothing_else(built: Built) -> None:
    pins = lock.read_pins(lock.REQUIREMENTS / f"{built.image.lock}.lock")
    environment = lock.marker_environment()
    wanted = {
        name
        for name, entries in pins.items()
        if any(pin.marker is None or pin.marker.evaluate(environment) for _, pin in entries)
    }
    members = {lock.read_member(folder).name for folder in built.image.members}
    assert built.distributions() == wanted | members
    assert not built.distributions() & TOOLS
    assert not {path.name for path in (built.prefix / "bin").iterdir()} & {"pip", "pip3", "activate"}


def test_it_holds_no_sdk_and_no_store_of_others(built: Built) -> None:
    held = built.distributions()
    foreign = {"openai", "anthropic", "google-genai", "boto3", "azure-identity"}
    adapter = built.image.adapter
    own = {
        "openai": {"openai"},
        "azure": {"openai", "azure-identity"},
        "anthropic": {"anthropic"},
        "google": {"google-genai"},
        "bedrock": {"boto3"},
    }
    if built.image.name == "mesh":
        assert held >= foreign
    else:
        assert held & foreign == own.get(adapter or "", set())
    stores = {"qdrant-client", "qdrant-edge-py"}
    assert held & stores == (stores if built.image.name in ("retrieval", "mesh") else set())


@contextmanager
def running(built: Built, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Starts what the image starts, and yields the process and its health address once it says that it serves."""
    name = built.image.name.partition("-")[0]
    probe = f"unix:{folder}/probe.sock"
    mine = {"listen": f"unix:{folder}/service.sock", "probe": probe}
    settings = {
        "state_dir": str(folder / "state"),
        "auth": {"mode": "local"},
        name: {built.image.adapter: mine} if built.image.adapter else mine,
    }
    (folder / "sluice.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    process = subprocess.Popen(
        [str(built.prefix / "bin" / "entrypoint"), "--config", str(folder / "sluice.yaml")],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},  # no PYTHON… variable keeps it from writing bytecode
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if line.startswith("{") and json.loads(line).get("message") == "serving":
                break
        else:
            raise AssertionError("".join(said))
        yield process, probe
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_it_runs_reports_its_health_ends_in_order_and_writes_nothing_into_itself(built: Built, tmp_path: Path) -> None:
    if built.image.command.startswith("sluice"):
        printed = subprocess.run(
            [built.prefix / "bin" / "entrypoint", "--help"], check=True, capture_output=True, text=True
        ).stdout
        assert "Usage: sluice" in printed
        assert built.files() == built.before
        return
    with running(built, tmp_path) as (process, probe):
        ask = [*built.python, "-m", "sluice_kit.probe", probe]
        answer = subprocess.run(ask, check=False, capture_output=True, text=True)
        assert (answer.returncode, answer.stdout) == (0, "SERVING\n"), answer.stderr
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        process.stderr.read()
        assert process.wait(60) == 0
    assert built.files() == built.before
