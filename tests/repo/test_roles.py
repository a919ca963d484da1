"""Every RPC of the contracts stands in the tables of roles and of callers, and nothing else does: what is missing would be denied."""

from __future__ import annotations

import importlib

from sluice_kit.peers import CALLERS, DELEGATES, RESERVED
from sluice_kit.roles import ROLES

from .house import ROOT

GENERATED = ROOT / "gen" / "python"


def rpcs() -> set[str]:
    found = set()
    for path in (GENERATED / "sluice").rglob("*_pb2.py"):
        module = importlib.import_module(".".join(path.relative_to(GENERATED).with_suffix("").parts))
        for service in module.DESCRIPTOR.services_by_name.values():
            found |= {f"/{service.full_name}/{method.name}" for method in service.methods}
    return found


def test_the_table_of_roles_is_the_list_of_rpcs() -> None:
    assert rpcs()
    assert set(ROLES) == rpcs()


def test_the_table_of_callers_is_the_list_of_rpcs_and_names_known_services() -> None:
    assert set(CALLERS) == rpcs()
    assert {name for names in CALLERS.values() for name in names} <= DELEGATES
    assert DELEGATES <= RESERVED
