"""The reference tables in docs/ say what the code and the contracts say."""

from __future__ import annotations

import re

import pytest

from .house import ROOT, load_script, run_script


def test_the_tables_are_current() -> None:
    checked = run_script("docs.py", "--check")
    assert checked.returncode == 0, checked.stderr


def test_a_changed_table_is_noticed() -> None:
    docs = load_script("docs")
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    changed = page.replace("| NOT_FOUND | no |", "| NOT_FOUND | yes |", 1)
    assert changed != page
    assert docs.render(changed) == page


def test_every_section_of_the_configuration_has_its_table() -> None:
    docs = load_script("docs")
    from sluice_kit.config import SECTIONS

    # One is a single value, one belongs to a service that is not built.
    expected = set(SECTIONS) - {"state_dir", "workflows"} | {"errors", "vendors", "options", "setup", "metrics"}
    assert set(docs.WRITERS) == expected
    shown = {
        name
        for path in docs.PAGES
        for name in re.findall(r"<!-- ([\w.-]+): written by scripts/docs\.py -->", path.read_text(encoding="utf-8"))
    }
    assert shown == expected


def test_a_comment_that_contradicts_the_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = load_script("docs")
    rows = list(docs.described_reasons())
    wrong = rows[0]._replace(code="INTERNAL")
    monkeypatch.setattr(docs, "described_reasons", lambda: iter([wrong, *rows[1:]]))
    with pytest.raises(ValueError, match=wrong.name):
        docs.error_table()


def test_the_complete_configuration_wires_its_services_to_each_other() -> None:
    """With keys, retrieval gets embeddings at the inner listener alone, so the two settings have to agree."""
    import yaml

    shown = yaml.safe_load((ROOT / "deploy" / "sluice.yaml").read_text(encoding="utf-8"))
    gateway, providers = shown["gateway"], shown["providers"]
    assert shown["retrieval"]["gateway"]["address"] == gateway["internal"] != gateway["listen"]
    assert gateway["retrieval"]["address"] == shown["retrieval"]["listen"]
    for name, place in gateway["integrations"].items():
        assert place.get("colocate") or place["address"] == providers[name]["listen"]
