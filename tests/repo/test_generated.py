"""Generated code is current, complete, and asks for the runtimes it was generated for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from .house import ROOT, load_script, members, run_script

GENERATED = ROOT / "gen" / "python"


def test_generating_again_changes_nothing() -> None:
    result = run_script("gen.py", "--check")
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_proto_has_its_module_and_no_module_lacks_a_proto() -> None:
    protos = {
        path.relative_to(ROOT / "protos").with_suffix("") for path in (ROOT / "protos" / "sluice").rglob("*.proto")
    }
    modules = {
        path.relative_to(GENERATED).with_name(path.name.removesuffix("_pb2.py"))
        for path in (GENERATED / "sluice").rglob("*_pb2.py")
    }
    assert protos
    assert modules == protos


def floor(name: str) -> Version:
    stubs = next(member for member in members() if member.name == "sluice-protos")
    (requirement,) = (r for r in map(Requirement, stubs.project["dependencies"]) if r.name == name)
    (lowest,) = (specifier for specifier in requirement.specifier if specifier.operator == ">=")
    return Version(lowest.version)


def stamps(pattern: str, files: str) -> set[Version]:
    found = set()
    for path in GENERATED.rglob(files):
        match = re.search(pattern, path.read_text(encoding="utf-8"))
        assert match is not None, f"{path.name} carries no version"
        found.add(Version(match.group(1)))
    return found


def test_floors_are_what_the_generator_stamps() -> None:
    assert stamps(r"Protobuf Python Version: ([\d.]+)", "*_pb2.py") == {floor("protobuf")}
    assert stamps(r"GRPC_GENERATED_VERSION = '([\d.]+)'", "*_pb2_grpc.py") == {floor("grpcio")}


def test_the_check_sees_what_is_missing_stale_and_different(tmp_path: Path) -> None:
    gen = load_script("gen")
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("1")
    new.write_text("2")
    assert gen.differences({"a": old}, {"a": old}) == []
    assert [line.split(":")[0] for line in gen.differences({"a": new, "b": new}, {"a": old, "c": old})] == [
        "missing",
        "stale",
        "differs",
    ]


def test_a_proto_that_does_not_compile_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    gen = load_script("gen")
    (tmp_path / "protos" / "sluice").mkdir(parents=True)
    (tmp_path / "protos" / "third_party" / "buf").mkdir(parents=True)
    (tmp_path / "protos" / "sluice" / "x.proto").write_text('syntax = "proto3"; message Broken { Missing m = 1; }')
    with pytest.raises(SystemExit, match="protoc refused"):
        gen.generate(tmp_path / "protos", tmp_path / "python", tmp_path / "descriptors")
    assert "Missing" in capfd.readouterr().err
