"""A stand-in for GitHub and Copilot: as much of them as a sign-in and one question need."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from tests.servers.tcp import listening

TOKEN = "gho_1f0c9d7e3a42688d61e5b"
CHUNK = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini"}


class GitHub:
    """Answers polls with `pending` until `answer` is set to another word; an empty one is consent."""

    def __init__(self) -> None:
        self.port = 0
        self.answer = "authorization_pending"
        self.paths: list[str] = []
        self.polled = asyncio.Event()
        self._connections: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of an integration in front of it."""
        return {"adapter": "copilot", "github_host": self.url}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["GitHub"]:
        async with listening(self._serve) as self.port:
            try:
                yield self
            finally:
                for writer in self._connections:
                    writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = next((row[16:] for row in head.split("\r\n") if row.startswith("content-length: ")), "0")
                await reader.readexactly(int(length))
                path = head.split(" ")[1]
                self.paths.append(path)
                kind, body = self._reply(path)
                writer.write(
                    f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the peer is gone
        finally:
            self._connections.discard(writer)
            writer.close()

    def _reply(self, path: str) -> tuple[str, bytes]:
        if path.endswith("/chat/completions"):
            delta = {**CHUNK, "choices": [{"index": 0, "delta": {"content": "Hello from Copilot"}}]}
            end = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            events = [json.dumps(delta), json.dumps(end), "[DONE]"]
            return "text/event-stream", "".join(f"data: {event}\n\n" for event in events).encode()
        return "application/json", json.dumps(self._value(path)).encode()

    def _value(self, path: str) -> dict[str, Any]:
        match path:
            case "/login/device/code":
                return {
                    "device_code": "d",
                    "user_code": "WDJB-MJHT",
                    "verification_uri": f"{self.url}/device",
                    "expires_in": 899,
                    "interval": 0.02,
                }
            case "/login/oauth/access_token":
                self.polled.set()
                return {"error": self.answer} if self.answer else {"access_token": TOKEN, "token_type": "bearer"}
            case "/copilot_internal/v2/token":
                endpoints = {"api": f"{self.url}/api"}
                return {
                    "token": "tid=1;exp=2:c0ffee5ec2e7",
                    "refresh_in": 1500,
                    "expires_at": 1,
                    "endpoints": endpoints,
                }
            case "/user":
                return {"login": "octocat"}
        return {"data": []}
