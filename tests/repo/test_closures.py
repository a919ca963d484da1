"""Each image's packages are enough for its service, and a service pulls in none that is not its own.

Each case starts an interpreter in which only the packages of one lock exist, and imports every module of its members.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from .house import OPTIONAL_MODULES, ROOT, load_script, members

lock = load_script("lock")
VENDOR_SDKS = ("openai", "anthropic")

IMPORT_EVERYTHING = """
import importlib, importlib.abc, json, pkgutil, sys, warnings
warnings.simplefilter("error")
blocked, packages = json.loads(sys.argv[1])
blocked = set(blocked)

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (not in this image)", name=name)
        return None

sys.meta_path.insert(0, Absent())
before = set(sys.modules)  # what the interpreter itself loads at its start
imported, failed = [], {}
for package in packages:
    try:
        top = importlib.import_module(package)
    except ModuleNotFoundError as error:
        failed[package] = str(error)
        continue
    for info in pkgutil.walk_packages(top.__path__, package + "."):
        if info.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(info.name)
        except ModuleNotFoundError as error:
            failed[info.name] = str(error)
        else:
            imported.append(info.name)
leaked = sorted({name.partition(".")[0] for name in set(sys.modules) - before} & blocked)
print(json.dumps({"imported": imported, "failed": failed, "leaked": leaked}))
"""


def import_all(image: str, without: tuple[str, ...] = ()) -> dict[str, list[str] | dict[str, str]]:
    """Import every module of an image's members where nothing but its lock is installed."""
    (entry,) = (candidate for candidate in lock.LOCKS if candidate.name == image)
    folders = {(ROOT / folder) for folder in entry.members}
    inside = [member for member in members() if member.folder in folders]
    present = set(lock.read_pins(entry.path)) | {canonicalize_name(member.name) for member in inside}
    present -= set(without)
    blocked = [
        package
        for package, owners in metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & present
    ]
    packages = [package for member in inside for package in member.packages if package != "buf"]
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, json.dumps([blocked, packages])],
        cwd=Path(sys.prefix),
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    parsed: dict[str, list[str] | dict[str, str]] = json.loads(result.stdout)
    return parsed


@pytest.mark.parametrize("image", ["gateway", "providers", "retrieval", "cli", "mesh"])
def test_the_lock_is_enough_for_every_module(image: str) -> None:
    result = import_all(image)
    absent = set(OPTIONAL_MODULES)
    if image == "cli":  # clients export nothing, so the extra `telemetry` of the kit is not theirs
        absent |= {name for name in result["failed"] if name.startswith("sluice_kit.telemetry.")}
    if image in ("cli", "providers"):  # they keep no records
        absent.add("sluice_kit.tables")
    assert set(result["failed"]) <= absent
    assert result["leaked"] == []
    assert result["imported"]


def test_without_vendor_sdks_only_their_adapters_are_missing() -> None:
    result = import_all("providers", without=VENDOR_SDKS)
    failed = result["failed"]
    assert isinstance(failed, dict)
    del failed["sluice_kit.tables"]  # for services that keep records
    for module, reason in failed.items():
        assert module.startswith("sluice_providers.adapters."), f"{module} needs a vendor's SDK: {reason}"
        assert any(f"'{sdk}" in reason for sdk in VENDOR_SDKS), reason
    imported = result["imported"]
    assert "sluice_providers.adapters.scripted" in imported
    assert "sluice_providers.adapters.extractive" in imported
