"""GitHub Copilot: the OpenAI format with a list of models, refusals and reasoning of its own.

The suite runs with a token that is used as it is; test_copilot.py has the sign-in and the exchange of tokens.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from sluice.provider.v1 import model_pb2

from .format_openai import OPENAI, _end, chunk, refusal
from .upstream import plain
from .wire_format import KEY


def model_row(name: str, supports: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A model as Copilot lists it."""
    return {
        "billing": {"is_premium": False, "multiplier": 0},
        "capabilities": {
            "family": f"family-of-{name}",
            "limits": {
                "max_context_window_tokens": 128000,
                "max_output_tokens": 16384,
                "max_prompt_tokens": 111616,
                "vision": {"max_prompt_image_size": 3145728, "max_prompt_images": 1},
            },
            "object": "model_capabilities",
            "supports": supports,
            "tokenizer": "o200k_base",
            "type": "chat",
        },
        "id": name,
        "is_chat_default": False,
        "is_chat_fallback": False,
        "model_picker_enabled": True,
        "name": name.upper(),
        "object": "model",
        "policy": {"state": "enabled", "terms": "Enable access."},
        "preview": False,
        "vendor": "Azure OpenAI",
        "version": f"{name}-2025-08-07",
        **more,
    }


EMBEDDER = model_row("e", {}) | {
    "capabilities": {
        "family": "text-embedding-3-small",
        "limits": {"max_inputs": 512},
        "object": "model_capabilities",
        "supports": {"dimensions": True},
        "tokenizer": "cl100k_base",
        "type": "embeddings",
    },
    "model_picker_enabled": False,
}
MODELS = {
    "object": "list",
    "data": [
        model_row(
            "b",
            {
                "max_thinking_budget": 32000,
                "parallel_tool_calls": True,
                "reasoning_effort": ["low", "medium", "high"],
                "streaming": True,
                "structured_outputs": True,
                "tool_calls": True,
                "vision": True,
            },
            supported_endpoints=["/chat/completions", "/responses"],
        ),
        model_row("a", {"streaming": True, "tool_calls": False}),
        EMBEDDER,
        model_row("hidden", {"streaming": True}, model_picker_enabled=False),
        model_row("codex", {"streaming": True}, supported_endpoints=["/responses"]),
        model_row("forbidden", {"streaming": True}, policy={"state": "disabled"}),
    ],
}
_C = model_pb2.Capability

COPILOT = replace(
    OPENAI,
    name="copilot",
    adapter="copilot",
    settings=lambda url: {"api_key": KEY, "base_url": url, "token_file": "token.json"},
    path="/chat/completions",
    key_variable="GITHUB_COPILOT_TOKEN or run `sluice login vendor`",
    reasoning=[
        chunk({"role": "assistant", "content": "", "reasoning_text": "Let me "}),
        chunk({"reasoning_text": "think."}),
        chunk({"content": "Yes."}),
        chunk({"content": None, "reasoning_opaque": "ErIC+/=="}),
        *_end("stop"),
    ],
    reasoning_state=b'[{"type":"reasoning.opaque","data":"ErIC+/=="}]',
    noise=[*OPENAI.noise, chunk({}, choices=[], prompt_filter_results=[{"prompt_index": 0}])],
    statuses=(
        (400, "invalid_request_error", "model_not_supported", "MODEL_NOT_FOUND"),
        (400, "invalid_request_error", "unsupported_api_for_model", "MODEL_NOT_FOUND"),
        (400, "invalid_request_error", "model_max_prompt_tokens_exceeded", "CONTEXT_TOO_LONG"),
        (400, "invalid_request_error", "invalid_request_body", "UPSTREAM_INVALID_ARGUMENT"),
        (401, "x", None, "UPSTREAM_AUTHENTICATION"),
        (402, "x", "quota_exceeded", "UPSTREAM_QUOTA_EXHAUSTED"),
        (403, "x", None, "UPSTREAM_PERMISSION"),
        (429, "x", "rate_limited", "UPSTREAM_RATE_LIMITED"),
        (429, "x", "quota_exceeded", "UPSTREAM_QUOTA_EXHAUSTED"),
        (500, "x", None, "UPSTREAM_UNAVAILABLE"),
        (503, "x", None, "UPSTREAM_UNAVAILABLE"),
    ),
    too_long=refusal(400, "invalid_request_error", "model_max_prompt_tokens_exceeded"),
    models=plain(json.dumps(MODELS).encode()),
    model_facts={
        "a": {"family": "family-of-a", "display_name": "A", "context_window": 128000, "max_output_tokens": 16384},
        "b": {"owned_by": "Azure OpenAI"},
        "e": {"family": "text-embedding-3-small"},
    },
    capabilities={
        "a": frozenset({_C.CAPABILITY_STREAMING}),
        "b": frozenset(
            {
                _C.CAPABILITY_STREAMING,
                _C.CAPABILITY_TOOLS,
                _C.CAPABILITY_STRUCTURED_OUTPUT,
                _C.CAPABILITY_IMAGES,
                _C.CAPABILITY_REASONING,
            }
        ),
        "e": frozenset({_C.CAPABILITY_EMBEDDINGS}),
    },
    refuses=frozenset({"files", "files.uri", "images.uri"}),
)
