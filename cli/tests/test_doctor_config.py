"""`sluice doctor --config`: what is said of a configuration, and of what it names on this machine."""

import datetime
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from sluice_cli.authority import Authority
from sluice_cli.checkup import local
from sluice_cli.checkup.findings import Findings, Level

from .findings import certificate, of, quiet

SECRET: Final = "sk-not-to-be-shown-4711"


async def configured(tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Findings:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    path = tmp_path / "sluice.yaml"
    path.write_text(json.dumps({"state_dir": str(tmp_path), **settings}))
    findings = quiet()
    await local.examine(path, findings)
    return findings


async def test_a_configuration_is_read_with_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(json.dumps({"keys": [{"id": "a", "sha256": "ab" * 32, "tenant": "t"}]}))
    keys.chmod(0o644)
    settings = {
        "auth": {"mode": "keys", "keys_file": "keys.yaml"},
        "providers": {
            "openai": {"adapter": "openai", "api_key": "${NO_SUCH_KEY}"},
            "other": {"adapter": "openai", "api_key": SECRET},
        },
        "gateway": {
            "routes": {"default": {"targets": ["openai/gpt", "other/gpt"]}},
            "prices": {"other/gpt": {"input": 1}},
        },
        "telemetry": {"metrics": "127.0.0.1:1", "otlp": "http://127.0.0.1:1"},
    }
    settings["gateway"]["prices"]["other/gpt"]["output"] = 2  # type: ignore[index]  # of the literal above
    findings = await configured(tmp_path, settings, monkeypatch)
    assert SECRET not in str(findings.made)
    assert of(findings, "auth.keys_file").said.startswith("others can read")
    assert of(findings, "config").said == "providers.openai.api_key: NO_SUCH_KEY is not set here"
    assert of(findings, "prices").said.startswith("openai/gpt has none")
    assert of(findings, "telemetry.metrics").level is of(findings, "telemetry.otlp").level is Level.WARN
    assert of(findings, "state_dir").said.endswith("GiB") or "GiB free" in of(findings, "state_dir").said


async def test_mistakes_and_missing_files_are_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "auth": {"mode": "keys", "keys_file": "nowhere.yaml"},
        "gateway": {"replicas": 2, "listen": "0.0.0.0:7400"},
    }
    findings = await configured(tmp_path, settings, monkeypatch)
    failed = [one.said for one in findings.made if one.level is Level.FAIL]
    assert any("more than one gateway needs" in said for said in failed) or any(
        "nowhere.yaml" in said for said in failed
    )
    assert of(findings, "auth.keys_file").level is Level.FAIL


async def test_little_room_and_open_doors_are_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_LITTLE_BYTES", 1 << 62)
    settings = {"auth": {"mode": "insecure"}, "gateway": {"listen": "0.0.0.0:7400"}}
    findings = await configured(tmp_path, settings, monkeypatch)
    assert of(findings, "state_dir").level is Level.WARN
    assert "without a key" in of(findings, "gateway.listen").said


@pytest.mark.parametrize(
    ("begins", "ends", "level", "said"),
    [
        (-10, 400, Level.OK, "holds until"),
        (-100, 1, Level.WARN, "ends soon"),
        (-10, -1, Level.FAIL, "ended at"),
        (2, 400, Level.FAIL, "not yet"),
    ],
)
async def test_the_meshs_own_certificates_are_judged(
    begins: int, ends: int, level: Level, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.create(tmp_path, "sluice.local")
    authority.issue("openai", datetime.timedelta(days=1))
    (tmp_path / "openai.pem").write_bytes(certificate(ends, begins)[0])
    files = {"certificate": "openai.pem", "key": "openai.key", "ca": "ca.pem"}
    findings = await configured(tmp_path, {"tls": files}, monkeypatch)
    assert (of(findings, "tls.certificate").level, said in of(findings, "tls.certificate").said) == (level, True)
    assert of(findings, "tls.ca").level is Level.OK


async def test_what_is_no_certificate_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    findings = await configured(tmp_path, {"tls": {"ca": "ca.pem"}}, monkeypatch)
    assert "holds no certificate" in of(findings, "tls.ca").said


async def test_a_disk_that_is_read_only_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    values = [*real[:8], real.f_flag | os.ST_RDONLY, *real[9:]]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(values))
    finding = of(await configured(tmp_path, {}, monkeypatch), "state_dir")
    assert (finding.level, "read-only" in finding.said) == (Level.FAIL, True)


async def test_a_file_that_cannot_be_read_is_the_only_finding(tmp_path: Path) -> None:
    findings = quiet()
    await local.examine(tmp_path / "absent.yaml", findings)
    (finding,) = findings.made
    assert finding.level is Level.FAIL
