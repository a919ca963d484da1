"""`BeginSignIn`: the steps of a sign-in, from an adapter to whoever asked for it, with heartbeats in between."""

import asyncio
from typing import Final

from sluice.gateway.v1 import integration_service_pb2 as pb
from sluice.provider.v1.provider_service_pb2 import SignInRequest, SignInResponse
from sluice_gateway.integrations import Integration
from sluice_kit.call import Call
from sluice_kit.rpc import SendMessage

HEARTBEAT: Final = pb.BeginSignInResponse().SerializeToString()
HEARTBEAT_SECONDS: Final = 10.0
"""A person takes a minute or two, and what lies between might take the silence for the end."""


async def begin_sign_in(
    integration: Integration, call: Call, send: SendMessage, heartbeat_seconds: float = HEARTBEAT_SECONDS
) -> None:
    """Signs an integration in and sends each step, and a heartbeat whenever nothing was sent for so long.

    It has no limit of time but the caller's: the vendor's code expires. Raises what the adapter raises; cancelling it
    ends the sign-in there.
    """
    loop = asyncio.get_running_loop()
    writing = asyncio.Lock()
    last = loop.time()

    async def forward(step: SignInResponse) -> None:
        if step.HasField("step"):  # the adapter's heartbeats are its own
            await write(pb.BeginSignInResponse(step=step.step))

    async def write(message: pb.BeginSignInResponse | bytes) -> None:
        nonlocal last
        async with writing:
            await send(message)
            last = loop.time()

    async def beat() -> None:
        while True:
            await asyncio.sleep(last + heartbeat_seconds - loop.time())
            if loop.time() - last >= heartbeat_seconds:
                await write(HEARTBEAT)

    beats = loop.create_task(beat())
    try:
        await integration.generator.sign_in(SignInRequest(), call, forward)
    finally:
        beats.cancel()
        # One that could not be written is no more than a sign that the caller is gone, which ends this call by itself.
        await asyncio.gather(beats, return_exceptions=True)
