"""The distributions of the workspace agree with each other and with what is installed."""

from __future__ import annotations

from importlib import metadata

import pytest

from .house import ROOT, Member, handwritten_members, members, relative


def ids(member: Member) -> str:
    return member.name


def test_one_version_for_all() -> None:
    assert len({member.project["version"] for member in members()}) == 1


@pytest.mark.parametrize("member", members(), ids=ids)
def test_each_is_typed_licensed_and_asks_for_the_same_python(member: Member) -> None:
    assert member.project["requires-python"] == ">=3.11"
    assert member.project["license"] == "Apache-2.0"
    for package in member.packages:
        top = member.folder / package
        assert list(top.glob("py.typed")) + list(top.glob("*/py.typed")), f"{relative(top)} has no py.typed"


@pytest.mark.parametrize("member", members(), ids=ids)
def test_each_is_installed_from_this_tree(member: Member) -> None:
    origin = metadata.distribution(member.name).read_text("direct_url.json")
    assert origin is not None
    assert member.folder.as_uri() in origin


@pytest.mark.parametrize("member", handwritten_members(), ids=ids)
def test_folders_hold_packages(member: Member) -> None:
    """Every folder with modules in it is a package: a missing __init__.py shows only once it is installed as a wheel."""
    folders = {path.parent for path in member.modules()}
    bare = sorted(relative(folder) for folder in folders if not (folder / "__init__.py").is_file())
    assert not bare


def test_entry_points_are_what_is_installed() -> None:
    """An editable installation keeps the entry points of its last `make setup`: what runs is what is written."""
    for member in members():
        written = {
            (group, name, value)
            for group, entries in member.project.get("entry-points", {}).items()
            for name, value in entries.items()
        } | {("console_scripts", name, value) for name, value in member.project.get("scripts", {}).items()}
        installed = metadata.distribution(member.name).entry_points
        assert {(entry.group, entry.name, entry.value) for entry in installed} == written


@pytest.mark.parametrize("group", ["console_scripts", "sluice.services", "sluice.colocate", "sluice.providers"])
def test_entry_points_resolve(group: str) -> None:
    own = {member.name for member in members()}
    for entry in metadata.entry_points(group=group):
        if entry.dist is not None and entry.dist.name in own:
            assert callable(entry.load()), f"{entry.value} is not callable"


def test_the_licence_stands() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "2026 Sluice authors" in text
