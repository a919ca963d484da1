"""How a server that speaks the chat completions format differs from OpenAI: settings, so that a vendor needs no code."""

from typing import Literal

from sluice_providers.base import CapabilityName
from sluice_providers.http import HttpSettings


class ChatDialect(HttpSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings for the quirks of a server. Their defaults are OpenAI's ways."""

    max_tokens_field: str = "max_completion_tokens"
    """How the limit of output tokens is called. Older servers of this format say `max_tokens`."""
    system_role: str = "system"
    """Role of the system instruction; some models want `developer`."""
    stream_usage: bool = True
    """Whether usage is asked for in streams. Off for servers that refuse `stream_options`."""
    seed_field: str = "seed"
    """How the seed is called."""
    unsupported: tuple[str, ...] = ()
    """Names of request options that the server does not honour, e.g. `seed` or `response_format.json_schema`: they are
    refused by name."""
    vendor_options: tuple[str, ...] = ()
    """Further names that requests may set in `vendor_options`."""
    effort: Literal["reasoning_effort", "reasoning", "enable_thinking", "thinking", "thinking_effort"] = (
        "reasoning_effort"
    )
    """How reasoning effort is said: `reasoning_effort: low`, or `reasoning: {effort: low}`. Or only whether to reason,
    where every effort but none means yes: `enable_thinking: true`, or `thinking: {type: enabled}`; `thinking_effort` is
    the latter and `reasoning_effort` beside it."""
    reasoning_back: Literal["none", "reasoning_content", "reasoning", "reasoning_details", "content"] = "none"
    """Where the reasoning of earlier turns goes back to the server, which tool loops with thinking need at some: a
    field of the assistant's message, or a part of its content. `none`: it is left out."""
    reasoning_required: bool = False
    """Whether a message with tool calls is refused without reasoning: one that was made elsewhere gets a blank."""
    terminal: Literal["done", "finish_reason"] = "done"
    """What ends a stream: the event `[DONE]`, or, for servers that do not send it, a finish reason and then the end of
    the body."""
    capabilities: tuple[CapabilityName, ...] = ()
    """What every chat model of the server can do, beside what its list of models tells of each."""
    models_path: str = "models"
    """Where models are listed: after `base_url`, or from the root of its host if it begins with a slash."""
    embeddings: bool = True
    """Whether the server makes embeddings."""
    embed_batch: int = 256
    """Texts in one request for embeddings."""
    rerank_path: str = ""
    """Where texts are reranked, like `models_path`. Empty: the server does not."""
