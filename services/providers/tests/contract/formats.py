"""The wire formats under test, by name."""

from __future__ import annotations

from .format_anthropic import ANTHROPIC
from .format_bedrock import BEDROCK
from .format_copilot import COPILOT
from .format_google import GOOGLE
from .format_ollama import OLLAMA
from .format_openai import OPENAI
from .format_responses import RESPONSES
from .wire_format import Format

FORMATS: dict[str, Format] = {
    wire.name: wire for wire in (ANTHROPIC, BEDROCK, COPILOT, GOOGLE, OLLAMA, RESPONSES, OPENAI)
}
