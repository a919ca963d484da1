"""A backup that is made while the mesh runs, and a mesh that goes on from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.servers import POSTGRES, find

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


def test_what_is_in_postgres_comes_back_from_a_dump(tmp_path: Path, postgres: Any) -> None:
    """The commands of docs/operations.md, while the mesh runs and into another database."""
    source = tmp_path / "notes"
    source.mkdir()
    (source / "kettle.md").write_text("# Kettle\n\nDescale the kettle every month.\n")
    first, second = postgres.new_database(), postgres.new_database()
    up = Up(tmp_path, in_postgres(first))
    try:
        mesh = Mesh(up)
        mesh.run("index", str(source), "--name", "notes")
        mesh.run("ask", "when to descale the kettle?", "--corpus", "notes", "--conversation", "tea")
        said = mesh.run("backup", str(tmp_path / "backup"), "--config", str(tmp_path / "sluice.yaml"))
        for what in ("records of the gateway", "conversations", "corpora, tasks and texts"):
            assert f"not in it: {what}" in said.stderr
        postgres_tool("pg_dump", "--format=custom", f"--file={tmp_path / 'sluice.dump'}", first)
        before = mesh.json("usage")[0]["totals"]
    finally:
        assert up.end() == 0
    postgres_tool("pg_restore", "--clean", "--if-exists", f"--dbname={second}", str(tmp_path / "sluice.dump"))
    up = Up(tmp_path, in_postgres(second))
    try:
        mesh = Mesh(up)
        assert len(mesh.json("conversations", "show", "tea")) == 1
        assert mesh.json("usage")[0]["totals"] == before
        answer = mesh.run("ask", "when to descale the kettle?", "--corpus", "notes")
        assert "every month" in answer.stdout
    finally:
        assert up.end() == 0


def in_postgres(url: str) -> dict[str, Any]:
    records = {"records": {"url": url}}
    return {**SETTINGS, "gateway": records, "retrieval": records}


def postgres_tool(name: str, *arguments: str) -> None:
    programs = find(POSTGRES)
    assert programs is not None  # the server runs
    command = [str(programs.folder / name), *arguments]
    done = subprocess.run(
        command, env={**os.environ, **programs.environment}, check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
