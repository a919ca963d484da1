"""Vendors that speak the format of an adapter: rows of data, no code.

A row holds what a section under `providers` would say: address, the key's variable, capabilities, quirks. A server that
has no row is used by writing the same settings into the configuration.

What a row refuses or claims is what the vendor's own documentation says; where that is silent, the row refuses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor with its own address, key and gaps."""

    title: str
    """Its name for people."""
    settings: Mapping[str, Any]
    """Settings for what the integration's section leaves out, instead of the adapter's own; texts may hold
    placeholders."""
    setup: str
    """How to get going, in a sentence or two of Markdown."""
    adapter: str = "openai"
    """Whose format it speaks: a row of `registry.REGISTRY`."""


VENDORS: Final[Mapping[str, Vendor]] = {
    "azure": Vendor(
        title="Azure OpenAI",
        settings={
            "azure_endpoint": "${AZURE_OPENAI_ENDPOINT}",
            "api_key": "${AZURE_OPENAI_API_KEY}",
            "api_version": "${OPENAI_API_VERSION:-}",
            "auth": "api-key",
            # What it lists are the models that could be deployed, by names that are not those of deployments.
            "discover": False,
        },
        setup="Set `AZURE_OPENAI_ENDPOINT` to the resource's address and `AZURE_OPENAI_API_KEY`, or write `auth: entra`"
        " instead of a key. A model is the name of a deployment: list yours under `models`.",
    ),
    "cerebras": Vendor(
        title="Cerebras",
        settings={
            "base_url": "https://api.cerebras.ai/v1",
            "api_key": "${CEREBRAS_API_KEY}",
            "capabilities": ("streaming",),
            "embeddings": False,
            "reasoning_back": "reasoning",
            "unsupported": (
                "presence_penalty", "frequency_penalty", "verbosity", "parallel_tool_calls", "tools.custom", "files",
            ),
        },
        setup="Make a key in the cloud console and set `CEREBRAS_API_KEY`.",
    ),
    "dashscope": Vendor(
        title="DashScope (Alibaba Cloud Model Studio)",
        settings={
            "base_url": "${DASHSCOPE_BASE_URL:-https://dashscope-intl.aliyuncs.com/compatible-mode/v1}",
            "api_key": "${DASHSCOPE_API_KEY}",
            "max_tokens_field": "max_tokens",
            "effort": "enable_thinking",
            "embed_batch": 10,
            "rerank_path": "/compatible-api/v1/reranks",
            "vendor_options": ("thinking_budget", "enable_search", "search_options", "top_k", "repetition_penalty"),
            "unsupported": ("frequency_penalty", "verbosity", "tools.custom", "tools.strict", "files"),
        },
        setup="Make a key in Model Studio and set `DASHSCOPE_API_KEY`. Keys belong to a region: outside Singapore, set"
        " `DASHSCOPE_BASE_URL` too.",
    ),
    "deepseek": Vendor(
        title="DeepSeek",
        settings={
            "base_url": "https://api.deepseek.com",
            "api_key": "${DEEPSEEK_API_KEY}",
            "max_tokens_field": "max_tokens",
            "effort": "thinking_effort",
            "reasoning_back": "reasoning_content",
            "reasoning_required": True,
            "capabilities": ("streaming", "tools", "reasoning"),
            "embeddings": False,
            "unsupported": (
                "seed", "verbosity", "parallel_tool_calls", "tools.custom", "tools.strict",
                "response_format.json_schema", "files",
            ),
        },
        setup="Make a key on the platform and set `DEEPSEEK_API_KEY`.",
    ),
    "fireworks": Vendor(
        title="Fireworks AI",
        settings={
            "base_url": "https://api.fireworks.ai/inference/v1",
            "api_key": "${FIREWORKS_API_KEY}",
            "max_tokens_field": "max_tokens",
            "reasoning_back": "reasoning_content",
            "rerank_path": "rerank",
            "vendor_options": ("top_k", "min_p", "repetition_penalty", "context_length_exceeded_behavior"),
            "unsupported": ("seed", "verbosity", "parallel_tool_calls", "tools.custom", "tools.strict", "files"),
        },
        setup="Make a key in the account's settings and set `FIREWORKS_API_KEY`.",
    ),
    "groq": Vendor(
        title="Groq",
        settings={
            "base_url": "https://api.groq.com/openai/v1",
            "api_key": "${GROQ_API_KEY}",
            "reasoning_back": "reasoning",
            "embeddings": False,
            "vendor_options": ("reasoning_format", "include_reasoning"),
            "unsupported": (
                "presence_penalty", "frequency_penalty", "verbosity", "tools.custom", "tools.strict", "files",
            ),
        },
        setup="Make a key in the console and set `GROQ_API_KEY`.",
    ),
    "huggingface": Vendor(
        title="Hugging Face Inference Providers",
        settings={
            "base_url": "https://router.huggingface.co/v1",
            "api_key": "${HF_TOKEN}",
            "max_tokens_field": "max_tokens",
            "embeddings": False,
            "unsupported": ("verbosity", "parallel_tool_calls", "tools.custom", "tools.strict", "files"),
        },
        setup="Make a token that may call Inference Providers and set `HF_TOKEN`.",
    ),
    "iflow": Vendor(
        title="iFlow",
        settings={
            "base_url": "https://apis.iflow.cn/v1",
            "api_key": "${IFLOW_API_KEY}",
            "max_tokens_field": "max_tokens",
            # It has no list of its models.
            "discover": False,
            "embeddings": False,
            "vendor_options": ("top_k",),
            "unsupported": (
                "seed", "presence_penalty", "reasoning_effort", "verbosity", "parallel_tool_calls", "tools.custom",
                "tools.strict", "tool_choice", "response_format.json_schema", "files",
            ),
        },
        setup="Sign in on the platform, make a key and set `IFLOW_API_KEY`; list the models that you use under"
        " `models`.",
    ),
    "litellm": Vendor(
        title="LiteLLM proxy",
        settings={
            "base_url": "${LITELLM_BASE_URL:-http://127.0.0.1:4000/v1}",
            "api_key": "${LITELLM_API_KEY:-}",
            "models_path": "model/info",
            "rerank_path": "rerank",
            "vendor_options": ("top_k", "thinking"),
            # The proxy refuses what the model behind it does not honour.
            "unsupported": ("tools.custom",),
        },
        setup="Start the proxy; set `LITELLM_BASE_URL` if it is elsewhere, and `LITELLM_API_KEY` if it wants a key.",
    ),
    "llamacpp": Vendor(
        title="llama.cpp server",
        settings={
            "base_url": "${LLAMACPP_BASE_URL:-http://127.0.0.1:8080/v1}",
            "api_key": "${LLAMA_API_KEY:-}",
            "max_tokens_field": "max_tokens",
            "reasoning_back": "reasoning_content",
            "rerank_path": "rerank",
            "vendor_options": (
                "top_k", "min_p", "repeat_penalty", "grammar", "cache_prompt", "chat_template_kwargs",
                "reasoning_format",
            ),
            "unsupported": ("reasoning_effort", "verbosity", "tools.custom", "tools.strict", "files"),
        },
        setup="Run `llama-server --jinja -m MODEL.gguf`; set `LLAMACPP_BASE_URL` if it is elsewhere.",
    ),
    "lmstudio": Vendor(
        title="LM Studio",
        settings={
            "base_url": "${LMSTUDIO_BASE_URL:-http://127.0.0.1:1234/v1}",
            "api_key": "${LM_API_TOKEN:-}",
            "max_tokens_field": "max_tokens",
            "models_path": "/api/v0/models",
            "vendor_options": ("top_k", "repeat_penalty"),
            "unsupported": (
                "reasoning_effort", "verbosity", "parallel_tool_calls", "tools.custom", "tools.strict",
                "response_format.json", "images.uri", "files",
            ),
        },
        setup="Start its server (`lms server start`); set `LMSTUDIO_BASE_URL` if it is elsewhere.",
    ),
    "mistral": Vendor(
        title="Mistral AI",
        settings={
            "base_url": "https://api.mistral.ai/v1",
            "api_key": "${MISTRAL_API_KEY}",
            "max_tokens_field": "max_tokens",
            "seed_field": "random_seed",
            # Usage comes unasked, and fields that it does not know are refused.
            "stream_usage": False,
            "reasoning_back": "content",
            "vendor_options": ("safe_prompt", "prompt_mode"),
            "unsupported": ("verbosity", "tools.custom", "files"),
        },
        setup="Make a key in the console and set `MISTRAL_API_KEY`.",
    ),
    "moonshot": Vendor(
        title="Moonshot AI (Kimi)",
        settings={
            "base_url": "${MOONSHOT_BASE_URL:-https://api.moonshot.ai/v1}",
            "api_key": "${MOONSHOT_API_KEY}",
            "effort": "thinking",
            "reasoning_back": "reasoning_content",
            "reasoning_required": True,
            "capabilities": ("streaming", "tools"),
            "embeddings": False,
            "unsupported": ("seed", "verbosity", "parallel_tool_calls", "tools.custom", "tools.strict", "files"),
        },
        setup="Make a key on the platform and set `MOONSHOT_API_KEY`; for an account in China, set `MOONSHOT_BASE_URL`"
        " to `https://api.moonshot.cn/v1`.",
    ),
    "nvidia": Vendor(
        title="NVIDIA NIM",
        settings={
            "base_url": "${NVIDIA_BASE_URL:-https://integrate.api.nvidia.com/v1}",
            "api_key": "${NVIDIA_API_KEY}",
            "max_tokens_field": "max_tokens",
            # Its models for retrieval want to be told what a text is for, which this format cannot say.
            "embeddings": False,
            "unsupported": ("reasoning_effort", "verbosity", "tools.custom", "tools.strict", "files"),
        },
        setup="Make a key in the catalog and set `NVIDIA_API_KEY`; for a NIM of your own, set `NVIDIA_BASE_URL`.",
    ),
    "openrouter": Vendor(
        title="OpenRouter",
        settings={
            "base_url": "https://openrouter.ai/api/v1",
            "api_key": "${OPENROUTER_API_KEY}",
            "max_tokens_field": "max_tokens",
            "effort": "reasoning",
            "reasoning_back": "reasoning_details",
            "rerank_path": "rerank",
            "vendor_options": (
                "provider", "plugins", "transforms", "top_k", "top_a", "min_p", "repetition_penalty",
            ),
            "unsupported": ("tools.custom",),
        },
        setup="Make a key in the settings and set `OPENROUTER_API_KEY`.",
    ),
    "perplexity": Vendor(
        title="Perplexity",
        settings={
            "base_url": "https://api.perplexity.ai",
            "api_key": "${PERPLEXITY_API_KEY}",
            "max_tokens_field": "max_tokens",
            # It has no list of its models.
            "discover": False,
            "models": (
                {"id": "sonar", "capabilities": ("streaming",)},
                {"id": "sonar-pro", "capabilities": ("streaming",)},
                {"id": "sonar-reasoning-pro", "capabilities": ("streaming", "reasoning")},
                {"id": "sonar-deep-research", "capabilities": ("streaming", "reasoning")},
            ),
            "embeddings": False,
            "vendor_options": (
                "search_mode", "search_domain_filter", "search_recency_filter", "web_search_options",
            ),
            "unsupported": (
                "stop", "seed", "verbosity", "parallel_tool_calls", "tools", "tools.custom", "tools.strict",
                "tool_choice", "response_format.json", "files",
            ),
        },
        setup="Make a key in the API settings and set `PERPLEXITY_API_KEY`.",
    ),
    "sambanova": Vendor(
        title="SambaNova",
        settings={
            "base_url": "${SAMBANOVA_BASE_URL:-https://api.sambanova.ai/v1}",
            "api_key": "${SAMBANOVA_API_KEY}",
            "max_tokens_field": "max_tokens",
            "unsupported": (
                "seed", "presence_penalty", "frequency_penalty", "reasoning_effort", "verbosity", "tools.custom",
                "tools.strict", "files",
            ),
        },
        setup="Make a key in the cloud console and set `SAMBANOVA_API_KEY`.",
    ),
    "siliconflow": Vendor(
        title="SiliconFlow",
        settings={
            "base_url": "${SILICONFLOW_BASE_URL:-https://api.siliconflow.com/v1}",
            "api_key": "${SILICONFLOW_API_KEY}",
            "max_tokens_field": "max_tokens",
            "effort": "enable_thinking",
            "embed_batch": 32,
            "rerank_path": "rerank",
            "vendor_options": ("thinking_budget", "top_k", "min_p"),
            "unsupported": (
                "seed", "presence_penalty", "verbosity", "parallel_tool_calls", "tools.custom", "tools.strict",
                "response_format.json_schema", "files",
            ),
        },
        setup="Make a key in the account and set `SILICONFLOW_API_KEY`; for an account in China, set"
        " `SILICONFLOW_BASE_URL` to `https://api.siliconflow.cn/v1`.",
    ),
    "together": Vendor(
        title="Together AI",
        settings={
            "base_url": "https://api.together.ai/v1",
            "api_key": "${TOGETHER_API_KEY}",
            "max_tokens_field": "max_tokens",
            "rerank_path": "rerank",
            "vendor_options": ("top_k", "min_p", "repetition_penalty", "chat_template_kwargs"),
            "unsupported": ("verbosity", "parallel_tool_calls", "tools.custom", "tools.strict", "files"),
        },
        setup="Make a key in the settings and set `TOGETHER_API_KEY`.",
    ),
    "vllm": Vendor(
        title="vLLM",
        settings={
            "base_url": "${VLLM_BASE_URL:-http://127.0.0.1:8000/v1}",
            "api_key": "${VLLM_API_KEY:-}",
            "reasoning_back": "reasoning",
            "rerank_path": "rerank",
            "vendor_options": (
                "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "chat_template_kwargs",
                "structured_outputs",
            ),
            "unsupported": ("verbosity", "parallel_tool_calls", "tools.custom", "tools.strict", "files"),
        },
        setup="Run `vllm serve MODEL`; set `VLLM_BASE_URL` if it is elsewhere, and `VLLM_API_KEY` if it wants a key.",
    ),
    "xai": Vendor(
        title="xAI",
        settings={
            "base_url": "https://api.x.ai/v1",
            "api_key": "${XAI_API_KEY}",
            "embeddings": False,
            "unsupported": ("verbosity", "tools.custom", "tools.strict", "files"),
        },
        setup="Make a key in the console and set `XAI_API_KEY`.",
    ),
    "zai": Vendor(
        title="Z.ai",
        settings={
            "base_url": "https://api.z.ai/api/paas/v4",
            "api_key": "${ZAI_API_KEY}",
            "max_tokens_field": "max_tokens",
            "stream_usage": False,
            "effort": "thinking",
            "reasoning_back": "reasoning_content",
            "embeddings": False,
            "unsupported": (
                "seed", "presence_penalty", "frequency_penalty", "verbosity", "parallel_tool_calls", "tools.custom",
                "tools.strict", "tool_choice", "response_format.json_schema", "files",
            ),
        },
        setup="Make a key on the platform and set `ZAI_API_KEY`.",
    ),
    "zhipu": Vendor(
        title="Zhipu AI (BigModel)",
        settings={
            "base_url": "https://open.bigmodel.cn/api/paas/v4",
            "api_key": "${ZHIPUAI_API_KEY}",
            "max_tokens_field": "max_tokens",
            "stream_usage": False,
            "effort": "thinking",
            "reasoning_back": "reasoning_content",
            "embed_batch": 64,
            "rerank_path": "rerank",
            "unsupported": (
                "seed", "presence_penalty", "frequency_penalty", "verbosity", "parallel_tool_calls", "tools.custom",
                "tools.strict", "tool_choice", "response_format.json_schema", "files",
            ),
        },
        setup="Make a key on the open platform and set `ZHIPUAI_API_KEY`.",
    ),
}  # fmt: skip  # names read better side by side
