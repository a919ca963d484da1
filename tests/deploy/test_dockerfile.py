"""The Dockerfile and the scripts it runs, as far as that can be said without building anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from fnmatch import fnmatch
from pathlib import Path

import pytest

from sluice_providers.registry import REGISTRY

from ..repo.house import load_script  # noqa: TID252 - what the meta-tests know about the tree
from .images import DOCKER, ROOT, Image, images

DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
IGNORE = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
lock = load_script("lock")


def instructions(keyword: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{keyword} (.*)$", joined, re.MULTILINE)


def test_the_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([hadolint, DOCKER / "Dockerfile"], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


def test_every_step_is_a_script_that_tests_run() -> None:
    steps = [re.sub(r"^(--\S+ )+", "", step) for step in instructions("RUN")]
    assert [Path(step.split()[0]).name for step in steps] == ["build.sh", "finish.sh"]
    assert not re.search(r"[;&|]", "".join(steps))


def test_it_runs_as_nobody_in_particular_on_a_base_that_is_named() -> None:
    assert instructions("USER") == ["65532:65532"]
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", default)
    assert all(base.startswith("${PYTHON_IMAGE}") for base in instructions("FROM"))
    assert "latest" not in DOCKERFILE


def test_the_final_stage_takes_nothing_but_the_closure() -> None:
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM") :]
    assert re.findall(r"^COPY (.*)$", final, re.MULTILINE) == ["--from=build /opt/sluice /opt/sluice"]


def allowed(path: str) -> bool:
    """What .dockerignore lets through: the last pattern that fits decides."""
    verdict = True
    for pattern in IGNORE:
        wanted = pattern.lstrip("!")
        parts = path.split("/")
        above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        fits = any(
            fnmatch(part, wanted) or (wanted.startswith("**/") and fnmatch(part.rpartition("/")[2], wanted[3:]))
            for part in above
        )
        if fits:
            verdict = pattern.startswith("!")
    return verdict


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    sources = [source for line in instructions("COPY") if "--from" not in line for source in line.split()[:-1]]
    needed = {member for image in images().values() for member in image.members} | {"deploy/docker", "requirements"}
    assert all(any(f"{need}/".startswith(f"{source}/") for source in sources) for need in needed)
    for image in images().values():
        assert allowed(f"requirements/{image.lock}.lock")
        assert all(allowed(f"{member}/pyproject.toml") for member in image.members)
    assert allowed("deploy/docker/build.sh")
    for secret in (".env", "deploy/keys.yaml", "deploy/k8s/base/sluice.yaml", ".git/config", ".venv/bin/python"):
        assert not allowed(secret), secret
    assert not allowed("services/gateway/tests/test_log.py")


def test_each_adapter_has_an_image_and_each_image_fits_its_lock() -> None:
    locks = {known.name: known for known in lock.LOCKS}
    assert {image.adapter for image in images().values()} - {None} == {*REGISTRY, "azure"}
    for image in images().values():
        assert image.members == tuple(locks[image.lock].members)


@pytest.mark.parametrize("image", [image for image in images().values() if image.adapter], ids=lambda image: image.name)
def test_an_adapter_has_its_vendors_extra_alone(image: Image) -> None:
    extras = next(known.extras for known in lock.LOCKS if known.name == image.lock)
    offered = lock.read_member(lock.PROVIDERS).extras
    # Azure is a row of the adapter `openai` that signs in by Entra; every other SDK has the name of its adapter.
    wanted = {"azure", "openai"} if image.adapter == "azure" else {image.adapter} & set(offered)
    assert set(extras) == wanted


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(DOCKER / script), *map(str, arguments)],
        env={"PATH": os.environ["PATH"], **environment},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", ["gateway", "retrieval"])
def test_the_final_stage_loses_pip_and_gets_its_packages(name: str, tmp_path: Path) -> None:
    base, root, calls = tmp_path / "base", tmp_path / "root", tmp_path / "calls"
    venv.create(base, with_pip=True)
    (tmp_path / "bin").mkdir()
    recorder = tmp_path / "bin" / "apt-get"
    recorder.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n', encoding="utf-8")
    recorder.chmod(0o755)
    (root / "var/lib/apt/lists/partial").mkdir(parents=True)
    ended = run("finish.sh", name, base, root, PATH=f"{recorder.parent}:{os.environ['PATH']}")
    assert ended.returncode == 0, ended.stderr
    left = [path.name for path in base.rglob("*") if re.match(r"(pip|setuptools|wheel|ensurepip)", path.name)]
    assert not left
    assert subprocess.run([base / "bin" / "python", "-I", "-c", "import json"], check=False).returncode == 0
    assert (root / "var/lib/sluice").stat().st_mode & 0o777 == 0o770
    asked = calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []
    if images()[name].packages:
        assert asked == ["update", f"install --yes --no-install-recommends {' '.join(images()[name].packages)}"]
        assert not list((root / "var/lib/apt/lists").iterdir())
    else:
        assert not asked


def test_scripts_refuse_what_they_cannot_do(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for script, *arguments in (
        ("build.sh", "gateway"),
        ("build.sh", "providers-opneai", tmp_path / "new"),
        ("build.sh", "gateway", tmp_path / "full"),
        ("finish.sh", "gateway"),
        ("finish.sh", "providers-opneai", tmp_path, tmp_path),
    ):
        ended = run(script, *arguments)
        assert ended.returncode in (64, 73), (script, ended.returncode)
        assert script in ended.stderr
    assert "providers-openai" in run("build.sh", "providers-opneai", tmp_path / "new").stderr
