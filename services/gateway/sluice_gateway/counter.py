"""Counter: asks vendors for the exact tokens of a prompt, where they count."""

from collections.abc import Iterable

from sluice.chat.v1.message_pb2 import Message
from sluice.chat.v1.target_pb2 import Target
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_gateway.conversations.turns import MAX_MESSAGES
from sluice_gateway.integrations import Integrations
from sluice_kit.call import Call


class TokenCounter:
    """Counts tokens. For the event loop's thread."""

    def __init__(self, integrations: Integrations) -> None:
        self._integrations = integrations
        self.estimators: set[str] = set()
        """Integrations that count no better than the gateway does itself; they are not asked again."""

    def counts(self, provider: str) -> bool:
        """Whether an integration may have an exact count."""
        return provider not in self.estimators

    async def count(
        self, request: pb.GenerateRequest, history: Iterable[Message], call: Call, seconds: float
    ) -> int | None:
        """Returns the tokens of a request with some messages before its own, without its passages, which counters do
        not see.

        None if the integration does no more than estimate. Raises what it says, after at most `seconds`.
        """
        target = Target()
        target.CopyFrom(request.target)
        question = pb.CountTokensRequest(target=target, tools=request.tools)
        question.messages.extend(history)
        question.messages.extend(request.messages)
        if request.HasField("system_instruction"):
            question.system_instruction = request.system_instruction
        if len(question.messages) > MAX_MESSAGES:
            return None
        generator = self._integrations.get(target.provider).generator
        answer = await generator.count_tokens(question, call.with_timeout(seconds))
        if answer.kind != pb.TOKEN_COUNT_KIND_EXACT:
            self.estimators.add(target.provider)
            return None
        return answer.tokens
