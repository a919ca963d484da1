"""A backup that is made while the mesh runs, and a mesh that goes on from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .processes import Mesh, Up

pytestmark = pytest.mark.slow

SETTINGS = {"providers": {"extractive": {"adapter": "extractive"}, "scripted": {"adapter": "scripted"}}}


def test_what_a_mesh_keeps_comes_back(tmp_path: Path) -> None:
    source = tmp_path / "notes"
    source.mkdir()
    (source / "kettle.md").write_text("# Kettle\n\nDescale the kettle every month.\n")
    up = Up(tmp_path, SETTINGS)
    try:
        mesh = Mesh(up)
        mesh.run("index", str(source), "--name", "notes")
        mesh.run("ask", "when to descale the kettle?", "--corpus", "notes", "--conversation", "tea")
        said = mesh.run("backup", str(tmp_path / "backup"), "--config", str(tmp_path / "sluice.yaml"))
        assert said.stdout.startswith(f"backed up to {tmp_path / 'backup'}: gateway, retrieval")
        # What comes later is not in it, and a second one needs a folder of its own.
        mesh.run("ask", "and then?", "--model", "scripted/text", "--conversation", "tea")
        again = mesh.run("backup", str(tmp_path / "backup"), "--config", str(tmp_path / "sluice.yaml"), code=1)
        assert "exists already" in again.stderr
        running = mesh.run("restore", str(tmp_path / "backup"), "--config", str(tmp_path / "sluice.yaml"), code=1)
        assert "a mesh already runs" in running.stderr
    finally:
        assert up.end() == 0
    refused = mesh.run("restore", str(tmp_path / "backup"), "--config", str(tmp_path / "sluice.yaml"), code=1)
    assert "holds state already" in refused.stderr
    shutil.rmtree(tmp_path / "state")
    said = mesh.run("restore", str(tmp_path / "backup"), "--config", str(tmp_path / "sluice.yaml"), "--json")
    assert json.loads(said.stdout)["services"] == ["gateway", "retrieval"]
    up = Up(tmp_path, SETTINGS)
    try:
        mesh = Mesh(up)
        answer = mesh.run("ask", "when to descale the kettle?", "--corpus", "notes")
        assert "every month" in answer.stdout
        assert "VERIFIED" in answer.stdout
        assert len(mesh.json("conversations", "show", "tea")) == 1
        assert mesh.json("usage")
    finally:
        assert up.end() == 0
