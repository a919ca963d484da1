"""Request: what an adapter is asked for one attempt."""

from collections.abc import Sequence

from sluice.chat.v1.parameters_pb2 import GenerationParameters
from sluice.chat.v1.passage_pb2 import Passage
from sluice.gateway.v1.chat_service_pb2 import ChatSpec
from sluice.provider.v1.provider_service_pb2 import GenerateRequest
from sluice_gateway.pipeline.attempt import AttemptRecord
from sluice_gateway.pipeline.prompts import Template


def generate_request(
    spec: ChatSpec,
    record: AttemptRecord,
    template: Template | None,
    passages: Sequence[Passage],
    *,
    whole: bool,
    defaults: GenerationParameters | None = None,
) -> GenerateRequest:
    """Returns the request of one attempt.

    `whole`: its caller reads the answer only when it is whole. `defaults` are parameters of the route.
    """
    request = GenerateRequest(attempt_id=record.id)
    request.target.CopyFrom(record.target)
    request.messages.extend(spec.messages)
    request.passages.extend(passages)
    request.tools.extend(spec.tools)
    system = spec.system_instruction
    if spec.HasField("answer_language"):
        wish = f"Answer in the language with the BCP 47 tag {spec.answer_language}."
        system = f"{system}\n\n{wish}" if system else wish
    if system:
        request.system_instruction = system
    if template is not None and passages:
        request.grounding_instruction = template.text
    if defaults is not None:
        request.parameters.CopyFrom(defaults)
        if spec.parameters.stop:
            del request.parameters.stop[:]  # lists would be joined
        request.parameters.MergeFrom(spec.parameters)
    elif spec.HasField("parameters"):
        request.parameters.CopyFrom(spec.parameters)
    if spec.HasField("tool_choice"):
        request.tool_choice.CopyFrom(spec.tool_choice)
    if spec.HasField("response_format"):
        request.response_format.CopyFrom(spec.response_format)
    if spec.lenient:
        request.lenient = True
    if whole:
        request.whole = True
    if spec.background:
        request.background = True
    return request
