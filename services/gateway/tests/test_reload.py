"""Routes and prices follow the file: whole, or not at all."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice_kit.config import ConfigDocument

A, B = "scripted/text?tokens=1", "scripted/text?tokens=2"


@contextmanager
def changed(document: ConfigDocument, **gateway: Any) -> Iterator[Path]:
    assert document.path is not None
    settings = yaml.safe_load(document.path.read_text(encoding="utf-8"))
    settings["gateway"] |= gateway
    new = document.path.with_suffix(".new")
    new.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    new.replace(document.path)
    yield document.path


async def test_what_the_file_says_now_holds(start: Any, ask: Any) -> None:
    async with start({"routes": {"default": {"targets": [A]}}}) as client:
        before = await client.stream(ask(""))
        prices = {B: {"input": 1, "output": 1}}
        with changed(
            client.mesh.document, routes={"default": {"targets": [B]}, "other": {"targets": [A]}}, prices=prices
        ):
            assert client.gateway.reloader.reload()
        after = await client.stream(ask(""))
        other = await client.stream(ask("other"))
    assert before.text == "the"
    assert after.text == "the mesh"
    assert after.last.completed.HasField("cost_nano_usd")
    assert other.text == "the"


async def test_a_file_with_a_mistake_changes_nothing(start: Any, ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with start({"routes": {"default": {"targets": [A]}}}) as client:
        routes = {"default": {"targets": [B]}, "wrong": {"targets": ["no-slash"]}}
        with changed(client.mesh.document, routes=routes) as path:
            assert not client.gateway.reloader.reload()
            line = next(n for n, text in enumerate(path.read_text().splitlines(), 1) if "no-slash" in text)
        seen = await client.stream(ask(""))
    assert seen.text == "the"
    [record] = [record for record in caplog.records if "stay as they were" in record.message]
    assert "gateway.routes.wrong.targets" in vars(record)["problem"]
    assert f"sluice.yaml:{line - 1}:" in vars(record)["problem"]


async def test_a_change_of_the_file_is_noticed(start: Any, ask: Any) -> None:
    async with start({"routes": {"default": {"targets": [A]}}}) as client:
        reloader = client.gateway.reloader
        reloader._on_tick()  # nothing has changed
        with changed(client.mesh.document, routes={"default": {"targets": [B]}}) as path:
            reloader._on_tick()
            assert (await client.stream(ask(""))).text == "the mesh"
            path.unlink()
            reloader._on_tick()  # it is being replaced
        assert (await client.stream(ask(""))).text == "the mesh"


async def test_an_empty_file_changes_nothing(start: Any, ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with start({"routes": {"default": {"targets": [A]}}}) as client:
        reloader = client.gateway.reloader
        path = client.mesh.document.path
        path.write_text("", encoding="utf-8")
        reloader._on_tick()  # it is being written
        assert not caplog.records or "stay as they were" not in caplog.records[-1].message
        assert not reloader.reload()
        assert "there is nothing in it" in vars(caplog.records[-1])["problem"]
        assert (await client.stream(ask(""))).text == "the"


async def test_what_needs_a_restart_is_named(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with start({"routes": {"default": {"targets": [A]}}}) as client:
        with changed(client.mesh.document, routes={"default": {"targets": [B]}}):
            assert client.gateway.reloader.reload()
        assert not [record for record in caplog.records if "need a restart" in record.message]
        with changed(client.mesh.document, admission={"in_flight": 7}) as path:
            path.write_text(path.read_text(encoding="utf-8") + "\nlog: {level: debug}\n", encoding="utf-8")
            assert client.gateway.reloader.reload()
    [record] = [record for record in caplog.records if "need a restart" in record.message]
    assert vars(record)["settings"] == "gateway.admission, log"


async def test_sighup_reloads(tmp_path: Path) -> None:
    path = tmp_path / "sluice.yaml"
    settings: dict[str, Any] = {"state_dir": str(tmp_path / "state"), "gateway": {"listen": f"unix:{tmp_path}/g.sock"}}
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sluice_gateway", "--config", str(path), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        while b"serving" not in (line := await process.stderr.readline()):
            assert line, "the gateway ended"
        settings["gateway"]["routes"] = {"default": {"targets": ["a/b"]}, "sighup": {"targets": ["a/c"]}}
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        process.send_signal(signal.SIGHUP)
        while b"sighup" not in (line := await process.stderr.readline()):
            assert line, "the gateway ended"
        assert b"routes and prices are taken" in line
        process.terminate()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
