"""Logs: one line an event, facts as fields, no secrets."""

import io
import json
import logging

import pytest

from sluice_kit import logs
from sluice_kit.call import Call, current_call
from sluice_kit.config import LogConfig

SECRETS = [
    "sk-proj-abcdefghijklmnop",
    "sk-ant-api03-abcdefghijklmnop",
    "ghp_abcdefghijklmnopqrstu",
    "Bearer eyJhbGciOiJIUzI1NiJ9.e30.x",
    "https://user:hunter2@example.org/repo.git",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_credential_is_masked(secret: str) -> None:
    masked = logs.redact(f"before {secret} after")
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    for part in ("abcdefghijklmnop", "eyJhbGci", "hunter2"):
        assert part not in masked


def lines(format_: str, **extra: object) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter("test") if format_ == "json" else logs.TextFormatter("test"))
    logger = logging.getLogger("sluice_kit.test")
    logger.propagate = False
    logger.handlers[:] = [handler]
    try:
        raise ValueError("bad sk-proj-abcdefghijklmnop")
    except ValueError:
        logger.exception("failed for %s", "you", extra=extra)
    return stream.getvalue()


def test_a_line_is_one_json_object_with_the_call_it_belongs_to() -> None:
    token = current_call.set(Call("/a/B", metadata=[("x-request-id", "req-7")]))
    try:
        fields = json.loads(lines("json", method="/a/B", api_key="hidden", count=3))
    finally:
        current_call.reset(token)
    assert fields["message"] == "failed for you"
    assert (fields["request_id"], fields["tenant"], fields["method"], fields["count"]) == ("req-7", "local", "/a/B", 3)
    assert fields["api_key"] == logs.MASK
    assert "ValueError" in fields["exception"]
    assert "abcdefgh" not in fields["exception"]


def test_text_for_people() -> None:
    text = lines("text", count=3)
    assert "failed for you" in text
    assert "count=3" in text
    assert "Traceback" in text


def test_configure_replaces_what_was_there() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure(LogConfig(level="warning", format="text"), "x")
        assert len(root.handlers) == 1
        assert root.level == logging.WARNING
    finally:
        root.handlers[:] = before
        root.setLevel(level)
