"""Keys, prompts and vendors' words appear in no log record, no status, no error and no argument of a process."""

from __future__ import annotations

import json
import logging
import subprocess
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509

from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit import logs
from sluice_kit.config import LogConfig
from sluice_kit.errors import SluiceError, to_status
from tests.servers.tcp import listening

from .certificates import certificate
from .conftest import Start, wires_with
from .subject import Subject, asking, subject
from .upstream import Upstream, plain
from .wire_format import KEY, Format

PROMPT: Final = "my prompt about Ærø"
ECHO: Final = "zebra-7713"
"""A word without the look of a credential, which no mask would find."""
ROW: Final = (
    KEY,
    "sk-live-0123456789abcdef",
    "Bearer eyJhbGciOi.secret",
    "AIzaSyA-0123456789abcdefghijkl",
    PROMPT,
    ECHO,
)
WORDS: Final = " ".join(ROW)
every_format = wires_with(lambda wire: True)


class Watch(logging.Handler):
    """Keeps every record as it was made, before anything masks it, and as our formatters write it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        facts = {name: value for name, value in record.__dict__.items() if name not in ("exc_info", "pathname")}
        self.texts.append(f"{record.getMessage()} {facts!r}")
        if record.exc_info:
            self.texts.append("".join(traceback.format_exception(*record.exc_info)))
        self.texts += [kind("test").format(record) for kind in (logs.JsonFormatter, logs.TextFormatter)]


class Shown:
    """All that anyone could see."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.texts: list[str] = []
        self.errors: list[SluiceError] = []

    async def fails(self, subject: Subject, request: pb.GenerateRequest) -> None:
        """Runs an attempt that fails, and every other method after it, and notes what they show."""
        outcome = await subject.outcome(request)
        assert outcome.error is not None
        self.note(outcome.error)
        self.texts.append(str(await subject.call("GetStatus", pb.GetStatusRequest())))

    async def calls(self, subject: Subject, request: pb.GenerateRequest) -> None:
        """Runs every method that is no stream, and notes what they show."""
        counting = pb.CountTokensRequest(target=request.target, messages=request.messages)
        for method, message in (
            ("ListModels", pb.ListModelsRequest()),
            ("Embed", pb.EmbedRequest(target=request.target, texts=[PROMPT])),
            ("CountTokens", counting),
            ("GetStatus", pb.GetStatusRequest(probe=True)),
        ):
            try:
                self.texts.append(str(await subject.call(method, message)))
            except SluiceError as error:
                self.note(error)

    def note(self, error: SluiceError) -> None:
        self.texts += [str(to_status(error)), repr(error), "".join(traceback.format_exception(error))]

    def check(self) -> None:
        texts = self.texts + self._watch.texts
        assert self.texts
        assert not [(secret, text) for secret in ROW for text in texts if secret in text]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    """Logs as a service does that its operator told to log everything."""
    root = logging.getLogger()
    names = ["", *logging.root.manager.loggerDict]
    before = {name: logging.getLogger(name).level for name in names}
    handlers = list(root.handlers)
    watch = Watch()
    found = Shown(watch)
    begin = subprocess.Popen.__init__

    def started(process: Any, *arguments: Any, **more: Any) -> None:
        found.texts.append(repr((arguments, more)))
        begin(process, *arguments, **more)

    monkeypatch.setattr(subprocess.Popen, "__init__", started)
    logs.configure(LogConfig(level="debug"), "test")
    root.handlers[:] = [watch]
    yield found
    root.handlers[:] = handlers
    for name in logging.root.manager.loggerDict:
        logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))
    root.setLevel(before[""])
    found.check()


@every_format
async def test_in_bodies_and_headers_of_errors(start: Start, wire: Format, upstream: Upstream, shown: Shown) -> None:
    headers = {name: WORDS.encode().decode("latin-1") for name in ("x_debug", "www_authenticate", "set_cookie", "via")}
    request = asking("vendor", wire.model, PROMPT)
    async with start() as running:
        for status in (400, 401, 403, 404, 407, 413, 429, 500, 529):
            upstream.answer(wire.refusal(status, "api_error", "weird_code", WORDS, **headers))
            await shown.fails(running, request)
        upstream.answer(wire.refusal(429, WORDS, WORDS, WORDS, retry_after=ECHO))
        await shown.fails(running, request)
        await shown.calls(running, request)
        upstream.answer(plain(WORDS.encode(), 500, "text/plain"))
        await shown.fails(running, request)
        await shown.calls(running, request)


@every_format
async def test_inside_streams(start: Start, wire: Format, upstream: Upstream, shown: Shown) -> None:
    request = asking("vendor", wire.model, PROMPT)
    raw = json.dumps({ECHO: WORDS, "error": {"message": WORDS, "type": WORDS, "code": WORDS}}, ensure_ascii=False)
    async with start() as running:
        for frame in (
            wire.error_frame(WORDS),
            f"data: {raw}\n\n".encode(),
            f"{raw}\n".encode(),
            f"data: {ECHO}\n\n".encode(),
            f"{ECHO}\n".encode(),
            ECHO.encode() * 1000,
            b"\xff" + ECHO.encode() + b"\n\n",
            *wire.garbled.values(),
        ):
            upstream.answer(wire.stream([wire.opening, frame]))
            await shown.fails(running, request)
        for body in (raw.encode(), ECHO.encode(), f'["{ECHO}"]'.encode(), f'{{"{ECHO}": '.encode()):
            upstream.answer(plain(body))
            await shown.fails(running, asking("vendor", wire.model, PROMPT, whole=True))
            await shown.calls(running, request)


@every_format
async def test_in_redirects_and_broken_heads(start: Start, wire: Format, upstream: Upstream, shown: Shown) -> None:
    request = asking("vendor", wire.model, PROMPT)
    async with start() as running:
        for location in (f"http://{ECHO}.invalid/", f"https://user:{ECHO}@127.0.0.1:1/?key={KEY}", f"/{ECHO}"):
            upstream.answer(plain(b"", 302, location=location))
            await shown.fails(running, request)
            await shown.calls(running, request)
        for head in (f"HTTP/1.1 {ECHO}\r\n\r\n", f"HTTP/1.1 200 OK\r\n{ECHO}\r\n\r\n", f"{ECHO}\r\n\r\n"):

            async def play(connection: Any, _: Any, head: str = head) -> None:
                await connection.send(head.encode())
                await connection.finish()

            upstream.answer(play)
            await shown.fails(running, request)
            await shown.calls(running, request)
        upstream.answer(plain(ECHO.encode(), 200, f"text/{ECHO}"))
        await shown.fails(running, request)


@every_format
async def test_in_good_answers(start: Start, wire: Format, upstream: Upstream, shown: Shown) -> None:
    """What a model says, and what it calls tools with, is for the caller alone."""
    request = asking("vendor", wire.model, PROMPT)
    async with start() as running:
        upstream.answer(wire.stream(wire.text(*ROW)))
        assert "".join(ROW) in (await running.outcome(request)).text
        if wire.calls is not None:
            pieces = [(0, json.dumps({ECHO: WORDS}))]
            upstream.answer(wire.stream(wire.calls([("call_1", "weather")], pieces)))
            assert any(event.HasField("tool_call_delta") for event in (await running.outcome(request)).events)
        shown.texts.append(str(await running.call("GetStatus", pb.GetStatusRequest())))


@every_format
async def test_in_proxies(transport: str, wire: Format, upstream: Upstream, tmp_path: Path, shown: Shown) -> None:
    base = {"adapter": wire.adapter, **wire.settings("https://vendor.invalid")}
    request = asking("vendor", wire.model, PROMPT)
    for proxy in (upstream.url.replace("http://", f"http://user:{ECHO}@"), f"http://user:{ECHO}@127.0.0.1:1"):
        upstream.answer(plain(WORDS.encode(), 407, "text/plain", proxy_authenticate=ECHO))
        async with subject(transport, "vendor", {**base, "proxy": proxy, "connect_seconds": 2}, tmp_path) as running:
            await shown.fails(running, request)
            await shown.calls(running, request)


@every_format
async def test_in_certificates(transport: str, wire: Format, tmp_path: Path, shown: Shown) -> None:
    chain, context = certificate(tmp_path, ECHO, x509.DNSName(f"{ECHO}.invalid"))
    request = asking("vendor", wire.model, PROMPT)
    async with listening(lambda reader, writer: writer.close(), context) as port:
        url = f"https://127.0.0.1:{port}"
        # Once it is not trusted, and once it is for another name.
        for more in ({}, {"ca_file": str(chain)}):
            settings = {"adapter": wire.adapter, **wire.settings(url), **more}
            async with subject(transport, "vendor", settings, tmp_path) as running:
                outcome = await running.outcome(request)
                assert outcome.error is not None
                assert outcome.error.reason_name == "UPSTREAM_UNAVAILABLE"
                await shown.fails(running, request)
                await shown.calls(running, request)
