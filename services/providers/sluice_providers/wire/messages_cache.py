"""Where a request to Anthropic says that its beginning may be kept: prompt caching of the stable prefix.

Read from a cache, a prefix costs a tenth; to write it costs a quarter more. So marks stand only behind what comes again
as it is: the tools, the system instruction, the turns before the question, and where tools are offered everything,
since each step of a loop of calls repeats the one before. Without tools the question is not marked: the passages that
stand with it will stand beside the next question instead.

A prefix below the model's minimum (1024 to 4096 tokens) is processed as if it had no mark, without an error, so nothing
is measured here (https://platform.claude.com/docs/en/build-with-claude/prompt-caching).
"""

from typing import Any, Final, Literal

PromptCache = bool | Literal["5m", "1h"]
"""Whether prefixes are kept, and how long after their last use; True: as long as the vendor does by default."""

MAX_MARKS: Final = 4
"""The vendor refuses requests with more."""
_KINDS: Final = frozenset({"text", "image", "document", "search_result", "tool_use", "tool_result"})
"""Blocks that can be marked. Thinking cannot, though it is kept along with what stands around it."""


def mark(body: dict[str, Any], setting: PromptCache) -> None:
    """Marks the stable prefixes of a body of `messages_request`, unless the caller set marks of their own."""
    if setting is False or body.get("cache_control") is not None:
        return
    control: dict[str, Any] = {"type": "ephemeral"}
    if setting is not True:
        control["ttl"] = setting
    tools: list[dict[str, Any]] = body.get("tools", [])
    if tools:
        tools[-1]["cache_control"] = control
    if "system" in body:
        body["system"] = [{"type": "text", "text": body["system"], "cache_control": control}]
    messages: list[dict[str, Any]] = body["messages"]
    _mark_last(messages[: _question(messages)], control)
    if tools:
        _mark_last(messages, control)


def _question(messages: list[dict[str, Any]]) -> int:
    """Returns where the last message of a person's stands; behind it are the steps of a loop of tool calls."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message["role"] == "user" and any(block["type"] != "tool_result" for block in message["content"]):
            return index
    return 0


def _mark_last(messages: list[dict[str, Any]], control: dict[str, Any]) -> None:
    """Marks the last block that can be."""
    for message in reversed(messages):
        for block in reversed(message["content"]):
            # The vendor refuses a mark on text that is empty.
            if block["type"] in _KINDS and block.get("text") != "" and block.get("content") != "":
                block["cache_control"] = control
                return
