"""Vendors that speak the OpenAI format: every row of the table, with its recorded lists of models and its own ways."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from sluice.provider.v1 import model_pb2
from sluice_providers import options
from sluice_providers.vendors import VENDORS, Vendor

from .format_openai import MODELS, OPENAI, chunk, text
from .upstream import plain
from .wire_format import KEY, Format

_C = model_pb2.Capability
STREAMING, TOOLS, STRUCTURED = _C.CAPABILITY_STREAMING, _C.CAPABILITY_TOOLS, _C.CAPABILITY_STRUCTURED_OUTPUT
IMAGES, REASONING, EMBEDDINGS = _C.CAPABILITY_IMAGES, _C.CAPABILITY_REASONING, _C.CAPABILITY_EMBEDDINGS

LISTS: Final[Mapping[str, Any]] = {
    "fireworks": {
        "object": "list",
        "data": [
            {
                "id": "a",
                "object": "model",
                "owned_by": "fireworks",
                "created": 1733442103,
                "kind": "HF_BASE_MODEL",
                "supports_chat": True,
                "supports_image_input": True,
                "supports_tools": False,
                "context_length": 131072,
            },
            {"id": "b", "object": "model", "owned_by": "fireworks", "supports_chat": False, "supports_tools": False},
        ],
    },
    "groq": {
        "object": "list",
        "data": [
            {
                "id": "a",
                "object": "model",
                "created": 1733447754,
                "owned_by": "Meta",
                "active": True,
                "context_window": 131072,
                "public_apps": None,
                "max_completion_tokens": 32768,
            },
            {"id": "b", "object": "model", "created": 1, "owned_by": "OpenAI", "active": True, "context_window": 448},
        ],
    },
    "litellm": {
        "data": [
            {
                "model_name": "a",
                "litellm_params": {"model": "openai/gpt-4.1", "api_base": None},
                "model_info": {
                    "id": "e889baacd17f591cce4c63639275ba5e8dc60765d6c553e6ee5a504b19e50ddc",
                    "db_model": False,
                    "mode": "chat",
                    "max_tokens": 32768,
                    "max_input_tokens": 1047576,
                    "max_output_tokens": 32768,
                    "supports_function_calling": True,
                    "supports_vision": True,
                    "supports_response_schema": True,
                    "supports_reasoning": False,
                    "supports_assistant_prefill": None,
                },
            },
            {
                "model_name": "b",
                "litellm_params": {"model": "text-embedding-3-small"},
                "model_info": {"id": "x", "mode": "embedding", "max_input_tokens": 8191, "supports_vision": None},
            },
        ]
    },
    "llamacpp": {
        "models": [{"name": "a", "model": "a", "capabilities": ["completion"]}],
        "object": "list",
        "data": [
            {
                "id": "a",
                "object": "model",
                "created": 1735142223,
                "owned_by": "llamacpp",
                "meta": {
                    "vocab_type": 2,
                    "n_vocab": 128256,
                    "n_ctx_train": 131072,
                    "n_embd": 4096,
                    "n_params": 8030261312,
                    "size": 4912898304,
                },
            },
            {"id": "b", "object": "model", "created": 1735142223, "owned_by": "llamacpp", "meta": None},
        ],
    },
    "lmstudio": {
        "object": "list",
        "data": [
            {
                "id": "a",
                "object": "model",
                "type": "vlm",
                "publisher": "mlx-community",
                "arch": "qwen2_vl",
                "compatibility_type": "mlx",
                "quantization": "4bit",
                "state": "not-loaded",
                "max_context_length": 32768,
                "capabilities": ["tool_use"],
            },
            {
                "id": "b",
                "object": "model",
                "type": "embeddings",
                "publisher": "nomic-ai",
                "arch": "nomic-bert",
                "quantization": "Q4_0",
                "state": "not-loaded",
                "max_context_length": 2048,
            },
        ],
    },
    "mistral": {
        "object": "list",
        "data": [
            {
                "id": "a",
                "object": "model",
                "created": 1716883432,
                "owned_by": "mistralai",
                "capabilities": {
                    "completion_chat": True,
                    "completion_fim": False,
                    "function_calling": True,
                    "fine_tuning": False,
                    "vision": True,
                    "classification": False,
                },
                "name": "mistral-medium-2508",
                "description": "…",
                "max_context_length": 131072,
                "aliases": ["mistral-medium"],
                "deprecation": None,
                "default_model_temperature": 0.3,
                "type": "base",
            },
            {
                "id": "b",
                "object": "model",
                "created": 1716883432,
                "owned_by": "mistralai",
                "capabilities": {"completion_chat": False, "function_calling": False, "vision": False},
                "max_context_length": 8192,
                "type": "base",
            },
        ],
    },
    "moonshot": {
        "object": "list",
        "data": [
            {
                "id": "a",
                "object": "model",
                "created": 1769472000,
                "owned_by": "moonshot",
                "context_length": 262144,
                "supports_image_in": True,
                "supports_video_in": True,
                "supports_reasoning": True,
            },
            {"id": "b", "object": "model", "created": 1712016000, "owned_by": "moonshot", "context_length": 8192},
        ],
    },
    "openrouter": {
        "data": [
            {
                "id": "a",
                "canonical_slug": "a",
                "name": "Some: Model A",
                "created": 1741569952,
                "description": "…",
                "context_length": 1000000,
                "architecture": {
                    "modality": "text+image->text",
                    "input_modalities": ["file", "image", "text"],
                    "output_modalities": ["text"],
                    "tokenizer": "Claude",
                    "instruct_type": None,
                },
                "pricing": {"prompt": "0.000003", "completion": "0.000015"},
                "top_provider": {"context_length": 1000000, "max_completion_tokens": 64000, "is_moderated": True},
                "per_request_limits": None,
                "supported_parameters": ["include_reasoning", "reasoning", "structured_outputs", "tools", "top_p"],
            },
            {
                "id": "b",
                "name": "b",
                "created": 1741569952,
                "context_length": 8192,
                "architecture": {"input_modalities": ["text"], "output_modalities": ["embeddings"]},
                "top_provider": {"context_length": 8192, "max_completion_tokens": None, "is_moderated": False},
                "supported_parameters": [],
            },
        ]
    },
    "together": [
        {
            "id": "a",
            "object": "model",
            "created": 1692896905,
            "type": "chat",
            "display_name": "Model A",
            "organization": "Meta",
            "link": "",
            "context_length": 131072,
            "pricing": {"hourly": 0, "input": 0.3, "output": 0.3, "base": 0, "finetune": 0},
        },
        {
            "id": "b",
            "object": "model",
            "created": 0,
            "type": "embedding",
            "organization": "BAAI",
            "context_length": 512,
        },
        {"id": "c", "object": "model", "created": 0, "type": "rerank", "organization": "Mixedbread"},
    ],
    "vllm": {
        "object": "list",
        "data": [
            {
                "id": "a",
                "object": "model",
                "created": 1741569952,
                "owned_by": "vllm",
                "root": "meta-llama/Llama-3.1-8B-Instruct",
                "parent": None,
                "max_model_len": 131072,
                "permission": [{"id": "modelperm-1", "object": "model_permission"}],
            },
            {"id": "b", "object": "model", "owned_by": "vllm", "root": "lora", "parent": "a", "max_model_len": None},
        ],
    },
}
"""Lists of models as the vendors document them, by row; the others list as OpenAI does."""

FACTS: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "fireworks": {"a": {"context_window": 131072, "owned_by": "fireworks"}},
    "groq": {"a": {"context_window": 131072, "max_output_tokens": 32768}, "b": {"context_window": 448}},
    "litellm": {"a": {"context_window": 1047576, "max_output_tokens": 32768}, "b": {"context_window": 8191}},
    "llamacpp": {
        "a": {"context_window": 131072, "size_bytes": 4912898304, "display_size": "4.6 GiB", "parameter_size": "8.0B"},
        "b": {"display_size": "", "owned_by": "llamacpp"},
    },
    "lmstudio": {"a": {"family": "qwen2_vl", "owned_by": "mlx-community", "context_window": 32768}},
    "mistral": {"a": {"context_window": 131072, "display_name": "mistral-medium-2508"}},
    "moonshot": {"a": {"context_window": 262144}, "b": {"context_window": 8192}},
    "openrouter": {
        "a": {"display_name": "Some: Model A", "context_window": 1000000, "max_output_tokens": 64000},
        "b": {"display_name": "", "max_output_tokens": 0},
    },
    "together": {"a": {"display_name": "Model A", "owned_by": "Meta", "context_window": 131072}, "c": {}},
    "vllm": {"a": {"context_window": 131072}, "b": {"context_window": 0}},
}
CAPABILITIES: Final[Mapping[str, Mapping[str, frozenset[model_pb2.Capability.ValueType]]]] = {
    "fireworks": {"a": frozenset({STREAMING, IMAGES}), "b": frozenset()},
    "litellm": {"a": frozenset({STREAMING, TOOLS, STRUCTURED, IMAGES}), "b": frozenset({EMBEDDINGS})},
    "lmstudio": {"a": frozenset({STREAMING, TOOLS, IMAGES}), "b": frozenset({EMBEDDINGS})},
    "mistral": {"a": frozenset({STREAMING, TOOLS, IMAGES}), "b": frozenset()},
    "moonshot": {"a": frozenset({STREAMING, TOOLS, IMAGES, REASONING}), "b": frozenset({STREAMING, TOOLS})},
    "openrouter": {
        "a": frozenset({STREAMING, TOOLS, STRUCTURED, IMAGES, REASONING}),
        "b": frozenset({EMBEDDINGS}),
    },
    "together": {"a": frozenset({STREAMING}), "b": frozenset({EMBEDDINGS}), "c": frozenset()},
}
"""What must be claimed where a list tells it; elsewhere what the row holds of every model."""


def _thinking(piece: str) -> bytes:
    return chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": piece}]}]})


def _detail(**fields: Any) -> dict[str, Any]:
    return {"format": "anthropic-claude-v1", "index": 0, **fields}


_END: Final = [chunk({"content": "Yes."}), *text()[1:]]
REASONS: Final[Mapping[str, tuple[list[bytes], bytes]]] = {
    "groq": ([chunk({"reasoning": "Let me "}), chunk({"reasoning": "think."}), *_END], b""),
    "mistral": (
        [
            _thinking("Let me "),
            _thinking("think."),
            chunk({"content": [{"type": "text", "text": "Yes."}]}),
            *text()[1:],
        ],
        b"",
    ),
    "openrouter": (
        [
            b": OPENROUTER PROCESSING\n\n",
            chunk({"reasoning": "Let me ", "reasoning_details": [_detail(type="reasoning.text", text="Let me ")]}),
            chunk({"reasoning": "think.", "reasoning_details": [_detail(type="reasoning.text", text="think.")]}),
            chunk({"reasoning": None, "reasoning_details": [_detail(type="reasoning.text", signature="Ep4=")]}),
            chunk({"reasoning_details": [_detail(type="reasoning.encrypted", data="gAAA", id="rs_1", index=1)]}),
            *_END,
        ],
        json.dumps(
            [
                {
                    "type": "reasoning.text",
                    "text": "Let me think.",
                    "signature": "Ep4=",
                    "format": "anthropic-claude-v1",
                    "index": 0,
                },
                {
                    "type": "reasoning.encrypted",
                    "data": "gAAA",
                    "id": "rs_1",
                    "format": "anthropic-claude-v1",
                    "index": 1,
                },
            ],
            separators=(",", ":"),
        ).encode(),
    ),
    "vllm": ([chunk({"reasoning": "Let me "}), chunk({"reasoning": "think."}), *_END], b""),
}
"""How reasoning comes, by row, and the sealed state with it; elsewhere in `reasoning_content`."""


def key_variable(vendor: Vendor) -> str | None:
    """Returns the variable that a row needs a key in; None if it needs none."""
    found = re.fullmatch(r"\$\{([A-Z_]+)\}", str(vendor.settings.get("api_key", "")))
    return found[1] if found else None


def _settings(name: str, vendor: Vendor, url: str) -> Mapping[str, Any]:
    """Only what leads to the test server, so that everything else is the row's own."""
    place = {"azure_endpoint": url} if "azure_endpoint" in vendor.settings else {"base_url": f"{url}/v1"}
    # A row that does not ask for a list still can, where somebody tells it to.
    return {"api_key": KEY, **place, **({} if vendor.settings.get("discover", True) else {"discover": True})}


def _format(name: str, vendor: Vendor) -> Format:
    unsupported = frozenset(vendor.settings.get("unsupported", ()))
    common = frozenset(_C.Value(f"CAPABILITY_{word.upper()}") for word in vendor.settings.get("capabilities", ()))
    own = tuple(vendor.settings.get("vendor_options", ()))
    reasons, state = REASONS.get(name, (OPENAI.reasoning, b""))
    return replace(
        OPENAI,
        name=name,
        adapter=name,
        settings=lambda url: _settings(name, vendor, url),
        path="/openai/v1/chat/completions" if name == "azure" else "/v1/chat/completions",
        key_variable=key_variable(vendor),
        reasoning=reasons,
        reasoning_state=state,
        models=plain(json.dumps(LISTS.get(name, MODELS)).encode()),
        model_facts=FACTS.get(name, OPENAI.model_facts),
        capabilities=CAPABILITIES.get(name, dict.fromkeys(FACTS.get(name, OPENAI.model_facts), common)),
        parameters=options.PARAMETERS - unsupported,
        refuses=OPENAI.refuses | (unsupported - options.PARAMETERS),
        vendor_option=(own[0], 3) if own else OPENAI.vendor_option,
        embeddings=OPENAI.embeddings if vendor.settings.get("embeddings", True) else None,
    )


ROWS: Final[Mapping[str, Format]] = {
    name: _format(name, vendor) for name, vendor in VENDORS.items() if vendor.adapter == "openai"
}
"""Every row that speaks the format, by name. The suite runs over them in one process, without grpc in between, which
each distinct format is run over as well."""
