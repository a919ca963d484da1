"""Who may import whom, and whether what is imported is declared."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from .house import OPTIONAL_MODULES, ROOT, SERVICES, Member, handwritten_members, load_script, members, relative

FIRST_PARTY = {package: member for member in members() for package in member.packages}

# Beside the stubs. The client and the CLI stand outside the mesh; a service stands beside the others, never on them.
MAY_IMPORT = {
    "sluice_kit": set(),
    "sluice_client": {"sluice_kit"},
    "sluice_gateway": {"sluice_kit", "sluice_client"},
    "sluice_providers": {"sluice_kit", "sluice_client"},
    "sluice_retrieval": {"sluice_kit", "sluice_client"},
    "sluice_cli": {"sluice_kit", "sluice_client"},
}


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import statement, also those inside functions and TYPE_CHECKING blocks."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def ids(member: Member) -> str:
    return member.name


@pytest.mark.parametrize("member", handwritten_members(), ids=ids)
def test_no_member_imports_a_service(member: Member) -> None:
    (own,) = member.packages
    allowed = MAY_IMPORT[own] | {own, "sluice", "buf"}
    wrong = [
        f"{relative(path)}:{line} imports {name}"
        for path in member.modules()
        for line, name in imported_modules(path)
        if name.split(".")[0] in FIRST_PARTY and name.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rule_covers_every_member() -> None:
    assert set(MAY_IMPORT) == {package for member in handwritten_members() for package in member.packages}
    for own, allowed in MAY_IMPORT.items():
        assert not (set(SERVICES) - {own}) & allowed


@pytest.mark.parametrize("member", handwritten_members(), ids=ids)
def test_no_module_loads_a_service_by_its_name(member: Member) -> None:
    """The way around an import statement: a string handed to importlib. Only another process or an entry point may."""
    (own,) = member.packages
    others = "|".join(service for service in SERVICES if service != own)
    wrong = [
        f"{relative(path)}:{number} {line.strip()}"
        for path in member.modules()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(rf"(import_module|__import__|find_spec)\(\s*[frb]?['\"]({others})\b", line)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("member", handwritten_members(), ids=ids)
def test_import_names_match_the_layout(member: Member) -> None:
    """`services/<x>/sluice_<x>/y.py` is `sluice_<x>.y`; protos/sluice/a/v1/b.proto is `sluice.a.v1.b_pb2`."""
    missing = []
    for path in member.modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
                continue
            owner = FIRST_PARTY.get(node.module.split(".")[0])
            if owner is None:
                continue
            target = owner.folder.joinpath(*node.module.split("."))
            if not (target.is_dir() or target.with_suffix(".py").is_file()):
                missing.append(f"{relative(path)}:{node.lineno} {node.module}")
    assert not missing, "\n".join(missing)


def test_nothing_but_the_stubs_owns_sluice_and_buf() -> None:
    stubs = next(member for member in members() if member.name == "sluice-protos")
    owners = [
        relative(path)
        for name in ("sluice", "buf")
        for pattern in (f"libs/*/{name}", f"services/*/{name}", f"clients/python/{name}", f"cli/{name}", name)
        for path in ROOT.glob(pattern)
    ]
    assert not owners
    assert (stubs.folder / "sluice" / "py.typed").is_file()
    assert not (stubs.folder / "buf" / "__init__.py").exists(), "buf is a namespace that others may share"


@cache
def distributions_by_package() -> dict[str, set[str]]:
    return {name: {dist.lower() for dist in dists} for name, dists in metadata.packages_distributions().items()}


def declared(member: Member) -> set[str]:
    project = member.project
    lines = [*project.get("dependencies", ())]
    lines += [line for extra in project.get("optional-dependencies", {}).values() for line in extra]
    return {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower().replace("_", "-") for line in lines}


def pinned(name: str) -> set[str]:
    """The packages of an optional lock."""
    return set(load_script("lock").read_pins(ROOT / "requirements" / f"{name}.lock"))


@pytest.mark.parametrize("member", handwritten_members(), ids=ids)
def test_what_is_imported_is_declared(member: Member) -> None:
    """A package that only arrives with another package's requirements leaves with them, too."""
    wrong = []
    for path in member.modules():
        module_name = ".".join(path.relative_to(member.folder).with_suffix("").parts)
        optional = OPTIONAL_MODULES.get(module_name)
        names = declared(member) | {member.name} | (pinned(optional) if optional else set())
        for line, module in imported_modules(path):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top == "__future__":
                continue
            if top == "google":  # a namespace of several distributions: google.rpc is googleapis-common-protos
                owners = {"googleapis-common-protos"} if module.startswith("google.rpc") else {"protobuf"}
                owners |= {"sluice-protos"}  # which requires both, and every member requires it
            elif top in FIRST_PARTY:
                owners = {FIRST_PARTY[top].name}
            else:
                owners = {name.replace("_", "-") for name in distributions_by_package().get(top, set())}
            if optional and not owners:
                owners = {top.replace("_", "-")}  # not installed here, and its package bears its name
            if not owners & names:
                wrong.append(f"{relative(path)}:{line} imports {module}, of {sorted(owners) or 'nothing installed'}")
    assert not wrong, "\n".join(wrong)
