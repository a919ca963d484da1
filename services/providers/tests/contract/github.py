"""A stand-in for GitHub and for Copilot behind it, on one loopback address."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import grpc

from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_kit.call import Call
from sluice_kit.errors import from_rpc_error

from .format_copilot import COPILOT, MODELS
from .subject import Subject, asking, text_of
from .upstream import Connection, Play, Request, Upstream, plain

GITHUB_TOKEN = "gho_5b1f0c9d7e3a42688d61"
DEVICE_CODE = "3584d83530557fdd1f46af8289938c8ef79f9dc5"
LOGIN_PATHS = ("/login/device/code", "/login/oauth/access_token")
GITHUB_PATHS = ("/copilot_internal/v2/token", "/user")


def reply(value: Any, status: int = 200) -> Play:
    """Answers with JSON."""
    return plain(json.dumps(value).encode(), status)


def state(word: str, **more: Any) -> Play:
    """Answers a poll as GitHub does: any state with status 200."""
    return reply({"error": word, "error_description": "words of the vendor", **more})


@dataclass
class GitHub:
    """What it answers. `upstream` has the journal."""

    upstream: Upstream
    device: dict[str, Any] = field(
        default_factory=lambda: {
            "device_code": DEVICE_CODE,
            "user_code": "WDJB-MJHT",
            "verification_uri": "https://github.com/login/device",
            "expires_in": 899,
            "interval": 0,
        }
    )
    polls: list[Play] = field(default_factory=list)
    """What the next polls get; after the last one, the token."""
    exchange: Play | None = None
    """What an exchange gets instead of a token."""
    life: dict[str, Any] = field(default_factory=lambda: {"refresh_in": 1500})
    account: Play = field(default_factory=lambda: reply({"login": "octocat", "id": 1}))
    chat: Play = field(default_factory=lambda: COPILOT.stream(COPILOT.text("Hello")))
    models: Play = field(default_factory=lambda: reply(MODELS))
    api: str | None = ""
    """Where Copilot is said to be. Empty: here; None: not said."""
    gate: asyncio.Event | None = None
    """Holds exchanges back until it is set."""
    issued: list[str] = field(default_factory=list)
    """The Copilot tokens, in order."""

    def __post_init__(self) -> None:
        self.upstream.answer(self.play)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of an integration in front of it."""
        return {"adapter": "copilot", "github_host": self.upstream.url, "token_file": "kept/token.json"}

    def asked(self, *paths: str) -> list[Request]:
        """Returns what was asked at some paths."""
        return [request for request in self.upstream.requests if request.path in paths]

    async def play(self, connection: Connection, request: Request) -> None:
        """Answers by path."""
        await (await self._answer(request))(connection, request)

    async def _answer(self, request: Request) -> Play:
        match request.path:
            case "/login/device/code":
                return reply(self.device)
            case "/login/oauth/access_token":
                form = parse_qs(request.body.decode())
                assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:device_code"]
                assert form["device_code"] == [DEVICE_CODE]
                token = {"access_token": GITHUB_TOKEN, "token_type": "bearer", "scope": "read:user"}
                return self.polls.pop(0) if self.polls else reply(token)
            case "/copilot_internal/v2/token":
                if self.gate is not None:
                    await self.gate.wait()
                return self.exchange or reply(self._issue())
            case "/user":
                return self.account
            case "/api/models":
                return self.models
            case "/api/chat/completions":
                return self.chat
            case "/api/embeddings":
                assert COPILOT.embeddings is not None
                return COPILOT.embeddings
        return reply({"message": "Not Found"}, 404)

    def _issue(self) -> dict[str, Any]:
        self.issued.append(f"tid=4e1f8a;exp=1795238400;sku=seat;n={len(self.issued)}:c0ffee5ec2e7")
        where = {} if self.api is None else {"endpoints": {"api": self.api or f"{self.upstream.url}/api"}}
        return {"token": self.issued[-1], "expires_at": 0, "chat_enabled": True, **self.life, **where}


async def sign_in(running: Subject, take: Callable[[pb.SignInResponse], None] | None = None, **limit: float) -> str:
    """Signs in and returns the account. `take` sees each step."""
    steps: list[pb.SignInResponse] = []

    def send(step: pb.SignInResponse) -> None:
        steps.append(step)
        if take is not None:
            take(step)

    if running._generator is not None:
        call = Call("/test")
        await running._generator.sign_in(pb.SignInRequest(), call.with_timeout(limit.get("timeout", 60.0)), send)
    else:
        try:
            async for step in running._stub.SignIn(pb.SignInRequest(), timeout=limit.get("timeout", 60.0)):
                send(step)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
    assert [step.step.WhichOneof("kind") for step in steps] == ["challenge", "done"]
    return steps[-1].step.done.account


async def ask(running: Subject) -> str:
    """Asks a question and returns the answer."""
    return text_of(await running.generate(asking("vendor", COPILOT.model)))
