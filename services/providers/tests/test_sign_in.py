"""The parts of a sign-in: the device flow step by step, the file of the token, and tokens that are good for a while."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sluice.provider.v1.sign_in_pb2 import SignInChallenge
from sluice_kit.errors import SluiceError
from sluice_providers.signin.device import DeviceFlow, is_safe_address
from sluice_providers.signin.lease import Lease, Leases
from sluice_providers.signin.token_file import Credential, TokenFile, TokenFileError

from .contract.upstream import Connection, Play, Request, Upstream, plain, running_upstream

DEVICE: dict[str, Any] = {
    "device_code": "d",
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://vendor.example/device",
    "expires_in": 900,
    "interval": 5,
}
TOKEN = {"access_token": "secret-token"}


def json_of(value: Any, status: int = 200) -> Play:
    return plain(json.dumps(value).encode(), status)


async def broken(connection: Connection, _: Request) -> None:
    connection.reset()


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def time(self) -> float:
        return self.now


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def run(
    upstream: Upstream, clock: Clock, polls: list[Play], device: dict[str, Any] | Play = DEVICE
) -> tuple[str, SignInChallenge]:
    """Runs a flow against the given answers; after the last one the polls get a token."""
    shown: list[SignInChallenge] = []
    waiting = list(polls)

    async def play(connection: Connection, request: Request) -> None:
        if request.path == "/device":
            answer = json_of(device) if isinstance(device, dict) else device
        else:
            answer = waiting.pop(0) if waiting else json_of(TOKEN)
        await answer(connection, request)

    async def show(challenge: SignInChallenge) -> None:
        shown.append(challenge)

    upstream.answer(play)
    flow = DeviceFlow(
        integration="vendor",
        client_id="app",
        scope="read",
        device_url=f"{upstream.url}/device",
        token_url=f"{upstream.url}/token",
        sleep=clock.sleep,
        clock=clock.time,
    )
    token = await flow.run(show)
    [challenge] = shown
    return token, challenge


PENDING, SLOW = json_of({"error": "authorization_pending"}), json_of({"error": "slow_down"})


async def test_the_interval_is_kept_and_grows_as_asked(upstream: Upstream, clock: Clock) -> None:
    slower = json_of({"error": "slow_down", "interval": 30})
    token, challenge = await run(upstream, clock, [PENDING, SLOW, PENDING, slower])
    assert token == "secret-token"
    assert clock.slept == [5, 5, 10, 10, 30]
    assert challenge.user_code == "WDJB-MJHT"
    assert upstream.requests[0].headers["accept"] == "application/json"
    assert upstream.requests[0].body == b"client_id=app&scope=read"


async def test_states_with_status_400_are_the_same(upstream: Upstream, clock: Clock) -> None:
    """As RFC 6749 has it; others, GitHub among them, say 200."""
    pending = json_of({"error": "authorization_pending"}, 400)
    assert (await run(upstream, clock, [pending, pending]))[0] == "secret-token"
    with pytest.raises(SluiceError) as caught:
        await run(upstream, clock, [pending, json_of({"error": "access_denied"}, 400)])
    assert caught.value.reason_name == "UPSTREAM_PERMISSION"


async def test_an_interval_that_is_not_given_is_five_seconds(upstream: Upstream, clock: Clock) -> None:
    await run(upstream, clock, [], {name: value for name, value in DEVICE.items() if name != "interval"})
    assert clock.slept == [5]


async def test_a_server_that_is_away_is_asked_less_often(upstream: Upstream, clock: Clock) -> None:
    polls = [broken, json_of({}, 502), json_of({}, 429), PENDING]
    assert (await run(upstream, clock, polls))[0] == "secret-token"
    assert clock.slept == [5, 10, 20, 40, 40]


async def test_a_code_expires_also_if_nobody_says_so(upstream: Upstream, clock: Clock) -> None:
    with pytest.raises(SluiceError) as caught:
        await run(upstream, clock, [PENDING] * 1000, DEVICE | {"expires_in": 12})
    assert caught.value.reason_name == "UPSTREAM_TIMEOUT"
    assert clock.slept == [5, 5, 2]


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (json_of({}), "UPSTREAM_PROTOCOL_ERROR"),
        (json_of([]), "UPSTREAM_PROTOCOL_ERROR"),
        (plain(b"<html>"), "UPSTREAM_PROTOCOL_ERROR"),
        (plain(b"x" * 70_000), "UPSTREAM_PROTOCOL_ERROR"),
        (json_of({}, 404), "INTEGRATION_MISCONFIGURED"),
        (json_of({}, 302), "INTEGRATION_MISCONFIGURED"),
        (json_of({}, 503), "UPSTREAM_UNAVAILABLE"),
        (json_of({"error": "device_flow_disabled"}), "INTEGRATION_MISCONFIGURED"),
        (json_of({"error": "invalid_client"}, 401), "INTEGRATION_MISCONFIGURED"),
        (json_of(DEVICE | {"verification_uri": "http://vendor.example/"}), "UPSTREAM_PROTOCOL_ERROR"),
        (json_of(DEVICE | {"verification_uri": "javascript:alert(1)"}), "UPSTREAM_PROTOCOL_ERROR"),
        (json_of(DEVICE | {"user_code": "\x1b[2J"}), "UPSTREAM_PROTOCOL_ERROR"),
        (json_of(DEVICE | {"user_code": 5}), "UPSTREAM_PROTOCOL_ERROR"),
    ],
)
async def test_a_beginning_that_is_none(device: Play, reason: str, upstream: Upstream, clock: Clock) -> None:
    with pytest.raises(SluiceError) as caught:
        await run(upstream, clock, [], device)
    assert caught.value.reason_name == reason
    assert len(upstream.requests) == 1


async def test_the_address_with_the_code_in_it_is_passed_on_if_it_is_safe(upstream: Upstream, clock: Clock) -> None:
    for address, expected in (("https://vendor.example/d?c=1", True), ("http://vendor.example/d", False), (5, False)):
        _, challenge = await run(upstream, clock, [], DEVICE | {"verification_uri_complete": address})
        assert bool(challenge.verification_uri_complete) == expected


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://vendor.example", True),
        ("http://127.0.0.1:80/x", True),
        ("http://localhost", True),
        ("http://[::1]:1", True),
        ("http://vendor.example", False),
        ("http://localhost.vendor.example", False),
        ("https://user@vendor.example", False),
        ("https://vendor.example/\x1b", False),
        ("https://[", False),
        ("https://", False),
        ("file:///etc/passwd", False),
    ],
)
def test_which_addresses_are_safe(url: str, safe: bool) -> None:
    assert is_safe_address(url) == safe


def credential(token: str = "t") -> Credential:  # noqa: S107 - of this test
    return Credential(token=token, host="vendor.example", account="me")


def test_a_token_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "state" / "providers" / "vendor" / "token.json")
    assert file.read() is None
    old = os.umask(0)
    try:
        file.write(credential())
    finally:
        os.umask(old)
    assert file.read() == credential()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    for folder in list(file.path.parents)[:3]:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "'t'" not in repr(file.read())


def test_a_file_is_read_when_it_changed_and_only_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = TokenFile(tmp_path / "token.json"), TokenFile(tmp_path / "token.json")
    loads = 0
    load = two._load

    def counted() -> Credential | None:
        nonlocal loads
        loads += 1
        return load()

    monkeypatch.setattr(two, "_load", counted)
    for token in ("first", "second", "third"):
        one.write(credential(token))
        for _ in range(3):
            found = two.read()
            assert found is not None
            assert found.token == token
    assert loads == 3
    one.path.unlink()
    assert two.read() is None


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = TokenFile(tmp_path / "token.json")
    file.write(credential("old"))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TokenFileError, match="No space left"):
        file.write(credential("new"))
    assert file.read() == credential("old")
    assert [path.name for path in tmp_path.iterdir()] == ["token.json"]


def test_what_is_no_file_of_ours(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "token.json")
    file.path.mkdir()
    with pytest.raises(TokenFileError, match=r"cannot be read|is not a file"):
        file.read()
    file.path.rmdir()
    file.write(credential())
    for mode in (0o604, 0o640, 0o660, 0o622):
        file.path.chmod(mode)
        with pytest.raises(TokenFileError, match=f"mode {mode:04o}.*chmod 600"):
            file.read()
    file.path.chmod(0o400)
    assert file.read() == credential()


class Fetches:
    """Makes leases when a test lets it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.leases = Leases(self.fetch, clock.time)

    async def fetch(self, source: str) -> Lease:
        self.count += 1
        number = self.count
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Lease(f"{source}-{number}", "https://x", source, self.clock.now + 100, self.clock.now + 160)

    async def settled(self) -> None:
        """Waits for what runs."""
        await asyncio.gather(*self.leases._tasks.values(), return_exceptions=True)


async def test_a_lease_is_renewed_before_it_ends_and_nobody_waits(clock: Clock) -> None:
    fetches = Fetches(clock)
    first = await fetches.leases.get("s")
    clock.now = 99
    assert await fetches.leases.get("s") is first
    assert fetches.count == 1
    clock.now = 101
    fetches.gate.clear()
    assert [await fetches.leases.get("s") for _ in range(3)] == [first] * 3
    await asyncio.sleep(0)
    fetches.gate.set()
    await fetches.settled()
    assert fetches.count == 2
    assert (await fetches.leases.get("s")).token == "s-2"


async def test_a_renewal_that_fails_is_tried_again_later_and_hurts_at_the_end_only(clock: Clock) -> None:
    fetches = Fetches(clock)
    first = await fetches.leases.get("s")
    fetches.error = SluiceError("away")
    clock.now = 101
    for _ in range(3):
        assert await fetches.leases.get("s") is first
        await fetches.settled()
    assert fetches.count == 2
    clock.now = 132
    assert await fetches.leases.get("s") is first
    await fetches.settled()
    assert fetches.count == 3
    clock.now = 160
    with pytest.raises(SluiceError, match="away"):
        await fetches.leases.get("s")
    fetches.error = None
    assert (await fetches.leases.get("s")).until == 320


async def test_one_fetch_for_all_who_wait_whoever_of_them_gives_up(clock: Clock) -> None:
    fetches = Fetches(clock)
    fetches.gate.clear()
    waiting = [asyncio.create_task(fetches.leases.get("s")) for _ in range(4)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    fetches.gate.set()
    found = await asyncio.gather(*waiting[1:])
    assert fetches.count == 1
    assert len({id(lease) for lease in found}) == 1


async def test_another_token_or_a_refusal_means_another_lease(clock: Clock) -> None:
    fetches = Fetches(clock)
    first = await fetches.leases.get("a")
    second = await fetches.leases.get("b")
    fetches.leases.drop(first)
    assert await fetches.leases.get("b") is second
    fetches.leases.drop(second)
    assert await fetches.leases.get("b") is not second
    assert fetches.count == 3
    assert "b-3" not in repr(await fetches.leases.get("b"))


async def test_closing_ends_a_fetch(clock: Clock) -> None:
    fetches = Fetches(clock)
    fetches.gate.clear()
    waiting = asyncio.create_task(fetches.leases.get("s"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await fetches.leases.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await fetches.leases.close()
