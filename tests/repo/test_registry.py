"""The adapters' table, the extras, the locks and the entry points say the same."""

from __future__ import annotations

import ast
import importlib
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from sluice_providers.registry import REGISTRY
from sluice_providers.vendors import VENDORS

from .house import ROOT, load_script, members

PROVIDERS = next(member for member in members() if member.name == "sluice-providers")
EXTRAS: dict[str, list[str]] = PROVIDERS.project["optional-dependencies"]
ELSEWHERE = {"azure": "sluice_providers.entra", "bedrock": "sluice_providers.aws"}
"""Extras that not an adapter's own module imports: what signs in at Azure, which is a vendor's row, and at AWS."""


def module_of(extra: str) -> str:
    """The one module that may import what an extra installs."""
    return ELSEWHERE.get(extra) or REGISTRY[extra].partition(":")[0]


def tree_of(module: str) -> ast.Module:
    """A module's source, without importing it."""
    path = PROVIDERS.folder.joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports_of(tree: ast.Module) -> set[str]:
    """The dotted names of every import in it, also those inside functions and those by name."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            names |= {str(given.value) for given in node.args[:1] if isinstance(given, ast.Constant)}
    return names


def sdk_names(extra: str) -> set[str]:
    """The import names of what an extra installs: dotted where a namespace is shared, as `google` is."""
    names = set()
    for line in EXTRAS[extra]:
        files = metadata.distribution(Requirement(line).name).files or []
        packages = {path.parent.parts for path in files if path.name == "__init__.py"}
        names |= {
            ".".join(parts) for parts in packages if len(parts) == 1 or (len(parts) == 2 and parts[:1] not in packages)
        }
    return names


def uses(module: str, sdks: set[str]) -> bool:
    """Tells whether a module imports one of some packages."""
    return any(f"{name}.".startswith(f"{sdk}.") for name in imports_of(tree_of(module)) for sdk in sdks)


def table(module: str, name: str) -> ast.Dict:
    """The one literal table of a name in a module."""
    tables = [
        node.value
        for node in tree_of(module).body
        if isinstance(node, ast.AnnAssign | ast.Assign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id == name
    ]
    assert len(tables) == 1
    assert isinstance(tables[0], ast.Dict | ast.Call)
    literal = tables[0] if isinstance(tables[0], ast.Dict) else tables[0].args[0]
    assert isinstance(literal, ast.Dict)
    return literal


def test_the_registry_is_a_literal_table() -> None:
    """Grep finds every adapter: the table is written out, not computed."""
    assert ast.literal_eval(table("sluice_providers.registry", "REGISTRY")) == dict(REGISTRY)


def test_rows_of_vendors_are_literal_data() -> None:
    """Grep finds every vendor with all that it differs in: nothing in a row is computed."""
    rows = table("sluice_providers.vendors", "VENDORS")
    assert [ast.literal_eval(key) for key in rows.keys if key is not None] == list(VENDORS)
    for name, row in zip(VENDORS, rows.values, strict=True):
        assert isinstance(row, ast.Call)
        assert not row.args
        fields = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in row.keywords}
        assert fields["settings"] == VENDORS[name].settings
        assert fields["title"]
        assert fields["setup"].endswith(".")


def test_rows_of_vendors_stand_in_order_and_lead_to_an_adapter() -> None:
    assert list(VENDORS) == sorted(VENDORS)
    assert not set(VENDORS) & set(REGISTRY)
    assert {vendor.adapter for vendor in VENDORS.values()} <= set(REGISTRY)


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


def test_every_extra_is_an_adapter_or_a_row_that_uses_it() -> None:
    assert set(EXTRAS) <= set(REGISTRY) | set(VENDORS)
    assert set(ELSEWHERE) <= set(EXTRAS)
    for extra in EXTRAS:
        module = module_of(extra)
        assert sdk_names(extra)
        assert uses(module, sdk_names(extra)), f"{module} does not import what its extra installs"


def test_an_sdk_is_imported_by_its_one_module_alone() -> None:
    sdks = {name for extra in EXTRAS for name in sdk_names(extra)}
    allowed = {module_of(extra) for extra in EXTRAS}
    modules = {".".join(path.relative_to(PROVIDERS.folder).with_suffix("").parts) for path in PROVIDERS.modules()}
    wrong = [module for module in sorted(modules - allowed) if uses(module, sdks)]
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
