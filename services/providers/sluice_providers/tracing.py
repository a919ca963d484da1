"""What traces show of a call of the vendor: OpenTelemetry's conventions for generative AI, and no prompt or answer."""

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Final

from sluice.chat.v1.usage_pb2 import Usage
from sluice_kit.call import Call
from sluice_kit.telemetry import current
from sluice_kit.telemetry.spans import NO_SPAN, Span

_NAMES: Final = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "google": "gcp.gemini",
    "groq": "groq",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
"""What the conventions call a vendor, where that is not the name of its adapter."""

vendor_headers: ContextVar[Mapping[str, str]] = ContextVar("sluice_vendor_headers", default={})  # noqa: B039 - never changed
"""HTTP headers of the trace, for requests that the running task makes. Empty unless vendors are to be told."""


@contextlib.contextmanager
def asking(call: Call, operation: str, model: str, integration: str, adapter: str) -> Iterator[Span]:
    """Shows the block as a call of the vendor. What fails in it is named by its reason alone."""
    if call.span is NO_SPAN:
        yield NO_SPAN
        return
    span = call.span.client(
        f"{operation} {model}",
        {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": _NAMES.get(adapter, adapter),
            "gen_ai.request.model": model,
            "sluice.integration": integration,
        },
    )
    token = vendor_headers.set(dict(span.headers)) if current().vendor_trace else None
    try:
        with span:
            yield span
    finally:
        if token is not None:
            vendor_headers.reset(token)


def tell_usage(span: Span, usage: Usage, model: str) -> None:
    """Tells what an answer took, and which model gave it."""
    if span is NO_SPAN:
        return
    span.set(
        {
            "gen_ai.response.model": model,
            "gen_ai.usage.input_tokens": usage.input_tokens,
            "gen_ai.usage.output_tokens": usage.output_tokens,
        }
    )
