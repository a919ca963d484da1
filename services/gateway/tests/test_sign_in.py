"""`BeginSignIn`: what an adapter shows reaches the caller, and the caller's end reaches the adapter."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice.gateway.v1 import integration_service_pb2_grpc as pb_grpc
from sluice.provider.v1 import provider_service_pb2 as provider_pb
from sluice.provider.v1.sign_in_pb2 import SignInChallenge, SignInDone, SignInStep
from sluice_gateway.integrations import Integration
from sluice_gateway.services.sign_in import begin_sign_in
from sluice_kit.auth import LocalAuthenticator
from sluice_kit.call import Call
from sluice_kit.config import ServerConfig
from sluice_kit.errors import SluiceError, from_rpc_error, make_error
from sluice_kit.server import Server

from .adapter import SERVICE

R = ErrorReason
CHALLENGE = SignInStep(challenge=SignInChallenge(verification_uri="https://v.example/d", user_code="AB-CD"))
DONE = SignInStep(done=SignInDone(account="octocat"))


class Adapter:
    """An adapter whose sign-in waits for the test."""

    def __init__(self) -> None:
        self.consent = asyncio.Event()
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.error: SluiceError | None = None
        self.deadlines: list[float | None] = []

    async def sign_in(self, _: provider_pb.SignInRequest, call: Call, send: Any) -> None:
        self.deadlines.append(call.time_remaining())
        try:
            await send(provider_pb.SignInResponse(step=CHALLENGE))
            await send(provider_pb.SignInResponse())  # a heartbeat of its own
            self.waiting.set()
            await self.consent.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        await send(provider_pb.SignInResponse(step=DONE))

    @contextlib.asynccontextmanager
    async def serving(self, address: str) -> AsyncIterator[None]:
        server = Server("fake", address, None, LocalAuthenticator(), ServerConfig())

        async def other(*_: object) -> None:
            raise make_error(R.ERROR_REASON_UNSUPPORTED_OPERATION, "not played")

        rpcs = {method.name: other for method in SERVICE.methods} | {"SignIn": self.sign_in}
        server.add(SERVICE, SimpleNamespace(**rpcs))
        await server.bind()
        await server.ready()
        try:
            yield
        finally:
            await server.stop(0)


@pytest.fixture
async def adapter(tmp_path: Path) -> AsyncIterator[Adapter]:
    found = Adapter()
    async with found.serving(f"unix:{tmp_path}/fake.sock"):
        yield found


@pytest.fixture
async def stub(start: Any, adapter: Adapter, tmp_path: Path) -> AsyncIterator[Any]:
    async with start({"integrations": {"fake": {"address": f"unix:{tmp_path}/fake.sock"}}}) as client:
        yield pb_grpc.IntegrationServiceStub(client.channel)


def begin(stub: Any, integration: str = "fake", **options: Any) -> Any:
    return stub.BeginSignIn(pb.BeginSignInRequest(integration=integration), **options)


async def read(call: Any, seen: list[SignInStep]) -> SluiceError | None:
    """Reads to the end, and returns how it failed."""
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            if message.HasField("step"):
                seen.append(message.step)
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None


async def test_steps_come_as_they_happen(stub: Any, adapter: Adapter) -> None:
    call = begin(stub)
    assert (await call.read()).step == CHALLENGE
    adapter.consent.set()
    seen: list[SignInStep] = []
    assert await read(call, seen) is None
    assert seen == [DONE]
    assert adapter.deadlines == [None], "the code's expiry is the limit, not ours"


async def test_what_the_adapter_says_of_a_failure_is_passed_on(stub: Any, adapter: Adapter) -> None:
    adapter.error = make_error(R.ERROR_REASON_UPSTREAM_PERMISSION, "declined", metadata={"provider": "fake"})
    adapter.consent.set()
    seen: list[SignInStep] = []
    failure = await read(begin(stub), seen)
    assert failure is not None
    assert (failure.reason, failure.message) == (R.ERROR_REASON_UPSTREAM_PERMISSION, "declined")
    assert seen == [CHALLENGE]


async def test_the_callers_end_is_the_adapters(stub: Any, adapter: Adapter) -> None:
    call = begin(stub)
    assert (await call.read()).step == CHALLENGE
    call.cancel()
    await asyncio.wait_for(adapter.cancelled.wait(), 60)
    adapter.cancelled.clear()
    adapter.waiting.clear()
    for seconds in (0.3, 3.0, 30.0):  # time enough to reach the adapter, on any machine
        failure = await read(begin(stub, timeout=seconds), [])
        assert failure is not None
        assert failure.reason == R.ERROR_REASON_DEADLINE_EXCEEDED
        if adapter.waiting.is_set():
            break
    await asyncio.wait_for(adapter.cancelled.wait(), 60)
    assert adapter.deadlines[-1] is not None


async def test_who_knows_no_sign_in_says_so(start: Any, placement: str) -> None:
    async with start(placement=placement) as client:
        stub: Any = pb_grpc.IntegrationServiceStub(client.channel)
        for name, reason in (
            ("scripted", R.ERROR_REASON_UNSUPPORTED_OPERATION),
            ("nobody", R.ERROR_REASON_MODEL_NOT_FOUND),
            ("", R.ERROR_REASON_INVALID_REQUEST),
        ):
            failure = await read(begin(stub, name), [])
            assert failure is not None
            assert failure.reason == reason


async def test_only_administrators_sign_in(start: Any, adapter: Adapter, tmp_path: Path) -> None:
    adapter.consent.set()
    keys = tmp_path / "keys.yaml"
    rows = [(role, hashlib.sha256(role.encode()).hexdigest()) for role in ("user", "editor", "admin")]
    keys.write_text(
        "keys:\n" + "".join(f"  - {{id: {role}, sha256: {sha}, tenant: t, roles: [{role}]}}\n" for role, sha in rows),
        encoding="utf-8",
    )
    gateway = {"integrations": {"fake": {"address": f"unix:{tmp_path}/fake.sock"}}}
    async with start(gateway, auth={"mode": "keys", "keys_file": str(keys)}) as client:
        stub: Any = pb_grpc.IntegrationServiceStub(client.channel)
        for role, allowed in (("user", False), ("editor", False), ("admin", True)):
            failure = await read(begin(stub, metadata=[("authorization", f"Bearer {role}")]), [])
            assert (failure is None) == allowed
            assert failure is None or failure.reason == R.ERROR_REASON_PERMISSION_DENIED


async def test_silence_is_filled_with_heartbeats() -> None:
    adapter: Any = Adapter()
    seen: list[Any] = []
    three = asyncio.Event()

    async def send(message: Any) -> None:
        seen.append(message)
        if seen.count(b"") == 3:
            three.set()

    integration = Integration("fake", adapter, "process")
    work = asyncio.create_task(begin_sign_in(integration, Call("/test"), send, heartbeat_seconds=0.01))
    await asyncio.wait_for(three.wait(), 60)
    adapter.consent.set()
    await work
    assert seen[0] == pb.BeginSignInResponse(step=CHALLENGE)
    assert seen[-1] == pb.BeginSignInResponse(step=DONE)
    assert set(map(bytes, (one for one in seen if isinstance(one, bytes)))) == {b""}


async def test_cancelling_leaves_no_heartbeat_behind() -> None:
    adapter: Any = Adapter()

    async def send(_: Any) -> None:
        pass

    before = asyncio.all_tasks()
    work = asyncio.create_task(begin_sign_in(Integration("fake", adapter, "process"), Call("/test"), send))
    await asyncio.wait_for(adapter.waiting.wait(), 60)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert adapter.cancelled.is_set()
    assert asyncio.all_tasks() == before
