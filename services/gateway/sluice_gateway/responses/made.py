"""Made: what each attempt of a response made, as far as its log tells, for whoever ends them for a gateway that died."""

from collections import Counter
from collections.abc import Mapping

from sluice_gateway.records.notes import made_of
from sluice_gateway.responses.log import unpack
from sluice_gateway.responses.response import Response


def made_by_attempts(response: Response) -> Mapping[str, int]:
    """Returns the estimated tokens of the attempts that have content in a response's log, by their ids.

    Every attempt but the first is announced by a RouteChanged before its content, so what comes before any is the
    first one's, which an empty id stands for.
    """
    sizes: Counter[str] = Counter()
    told: dict[str, int] = {}
    attempt = ""
    for batch in response.log.batches():
        for event in unpack(batch):
            match event.WhichOneof("kind"):
                case "route_changed":
                    attempt = event.route_changed.attempt_id
                case "text_delta":
                    sizes[attempt] += len(event.text_delta.text.encode())
                case "reasoning_delta":
                    sizes[attempt] += len(event.reasoning_delta.text.encode())
                case "tool_call_delta":
                    delta = event.tool_call_delta
                    sizes[attempt] += len(delta.arguments_json.encode()) + len(delta.input_text.encode())
                case "usage_update":
                    told[attempt] = event.usage_update.usage.output_tokens
    return {attempt: made_of(sizes[attempt], told.get(attempt, 0)) for attempt in {*sizes, *told}}
