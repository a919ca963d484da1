"""The typed async client of a Sluice gateway.

    from sluice_client import SluiceClient, question

    async with SluiceClient("127.0.0.1:7400") as client:
        async with client.stream_chat(question("Where are retries decided?", corpora=["corpora/sluice"])) as stream:
            async for item in stream:
                print(item.sequence, item.kind)

Requests and answers are the protobuf messages of `sluice.*`; failures are the exceptions of `sluice_kit.errors`. What
the client repeats by itself, and what it never repeats, is written in `sluice_client.client`.
"""

from sluice_client.client import SluiceClient
from sluice_client.events import NumberedEvent, NumberedTaskEvent
from sluice_client.failures import ClientClosedError, StreamProtocolError
from sluice_client.health import HealthStream
from sluice_client.pages import Pager
from sluice_client.requests import question, repository
from sluice_client.retry import RetryPolicy
from sluice_client.sign_in import SignInStream
from sluice_client.streams import ChatStream, TaskStream
from sluice_kit.fold import Fold

__all__ = [
    "ChatStream",
    "ClientClosedError",
    "Fold",
    "HealthStream",
    "NumberedEvent",
    "NumberedTaskEvent",
    "Pager",
    "RetryPolicy",
    "SignInStream",
    "SluiceClient",
    "StreamProtocolError",
    "TaskStream",
    "question",
    "repository",
]
