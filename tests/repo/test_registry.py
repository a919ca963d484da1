"""The adapters' table, the extras, the locks and the entry points say the same."""

from __future__ import annotations

import ast
import importlib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sluice_providers.registry import REGISTRY

from .house import ROOT, load_script, members

PROVIDERS = next(member for member in members() if member.name == "sluice-providers")
EXTRAS: dict[str, list[str]] = PROVIDERS.project["optional-dependencies"]


def tree_of(module: str) -> ast.Module:
    """A module's source, without importing it."""
    path = PROVIDERS.folder.joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(tree: ast.Module) -> set[str]:
    """The top-level names of every import in it, also those inside functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def sdk_names(extra: str) -> set[str]:
    """The import names of what an extra installs."""
    wanted = {canonicalize_name(Requirement(line).name) for line in EXTRAS[extra]}
    return {
        package
        for package, owners in metadata.packages_distributions().items()
        if {canonicalize_name(owner) for owner in owners} & wanted
    }


def test_the_registry_is_a_literal_table() -> None:
    """Grep finds every adapter: the table is written out, not computed."""
    tables = [
        node.value
        for node in tree_of("sluice_providers.registry").body
        if isinstance(node, ast.AnnAssign | ast.Assign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id == "REGISTRY"
    ]
    assert len(tables) == 1
    assert isinstance(tables[0], ast.Dict | ast.Call)
    literal = tables[0] if isinstance(tables[0], ast.Dict) else tables[0].args[0]
    assert ast.literal_eval(literal) == dict(REGISTRY)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_row_leads_to_a_class(name: str) -> None:
    module, separator, attribute = REGISTRY[name].partition(":")
    assert separator == ":"
    assert module.startswith("sluice_providers."), "adapters of other distributions use the entry-point group"
    assert isinstance(getattr(importlib.import_module(module), attribute), type)


def test_no_adapter_is_missing_from_the_table() -> None:
    folder = PROVIDERS.folder / "sluice_providers" / "adapters"
    written = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    listed = {target.partition(":")[0].rsplit(".", 1)[1] for target in REGISTRY.values()}
    assert listed <= written
    unlisted = {
        name
        for name in written - listed
        for node in tree_of(f"sluice_providers.adapters.{name}").body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Adapter")
    }
    assert not unlisted, f"adapters that no row of REGISTRY names: {unlisted}"


def test_every_extra_is_an_adapter_that_uses_it() -> None:
    assert set(EXTRAS) <= set(REGISTRY)
    for extra in EXTRAS:
        module = REGISTRY[extra].partition(":")[0]
        assert imports_of(tree_of(module)) & sdk_names(extra), f"{module} does not import what its extra installs"


def test_an_sdk_is_imported_by_its_adapter_alone() -> None:
    sdks = {name for extra in EXTRAS for name in sdk_names(extra)}
    allowed = {REGISTRY[extra].partition(":")[0] for extra in EXTRAS}
    modules = {".".join(path.relative_to(PROVIDERS.folder).with_suffix("").parts) for path in PROVIDERS.modules()}
    wrong = [module for module in sorted(modules - allowed) if imports_of(tree_of(module)) & sdks]
    assert not wrong


def test_the_image_installs_every_extra() -> None:
    pins = load_script("lock").read_pins(ROOT / "requirements" / "providers.lock")
    missing = {Requirement(line).name for lines in EXTRAS.values() for line in lines} - set(pins)
    assert not missing


def test_entry_points_of_this_distribution_are_not_adapters() -> None:
    """Two ways to list one adapter would disagree one day."""
    own = [e.name for e in metadata.entry_points(group="sluice.providers") if e.dist and e.dist.name == PROVIDERS.name]
    assert own == []
    assert [e.name for e in metadata.entry_points(group="sluice.colocate")] == ["providers"]
