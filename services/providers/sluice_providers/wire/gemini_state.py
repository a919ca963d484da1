"""Signatures of Gemini's thoughts, as the opaque state of reasoning parts, and back to exactly the parts they signed.

A signature stands on a part of an answer: on a call, on a text, on a thought. Ours is the state of a reasoning part:

- as it came: it belongs to the text or call that follows;
- `tail:N:` before it: to the last N bytes of the text before, which was already on its way when the signature came;
- `thought:` before it: to the reasoning part's own text.

What belongs to no part stands on an empty text, which is also how the vendor sends it at the end of a stream.
"""

from typing import Any, Final

from sluice.chat.v1 import message_pb2
from sluice_kit.rpc import invalid_field

MADE_UP_ID: Final = "sluice-"
"""Begins the ids of calls to which the vendor gave none."""

_TAIL: Final = "tail:"
_THOUGHT: Final = "thought:"
_UNSIGNED: Final = "skip_thought_signature_validator"
"""What the vendor documents for calls that it did not make itself, e.g. of another provider earlier in the turn."""


def ahead(signature: str) -> bytes:
    """Returns the state for a signature of the part that follows."""
    return signature.encode()


def behind(signature: str, text: str) -> bytes:
    """Returns the state for a signature of the text that was emitted last."""
    return f"{_TAIL}{len(text.encode())}:{signature}".encode()


def within(signature: str) -> bytes:
    """Returns the state for a signature of the thought itself."""
    return f"{_THOUGHT}{signature}".encode()


class SignedParts:
    """Puts the parts of one answer together again, each with its signature."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict  # whether the vendor refuses an answer whose first call has none
        self._parts: list[dict[str, Any]] = []
        self._pending = ""

    def add(self, part: dict[str, Any]) -> None:
        """Adds a text or a call."""
        if self._pending:
            part["thoughtSignature"] = self._pending
            self._pending = ""
        self._parts.append(part)

    def seal(self, reasoning: message_pb2.Reasoning, field: str) -> None:
        """Takes the signature of a reasoning part. Raises InvalidRequestError if it is none of ours."""
        try:
            state = reasoning.state.decode("ascii")
            if state.startswith(_THOUGHT):
                self._flush()
                thought = {"text": reasoning.text, "thought": True}
                self._parts.append(thought | {"thoughtSignature": state.removeprefix(_THOUGHT)})
            elif state.startswith(_TAIL):
                self._flush()
                size, _, signature = state.removeprefix(_TAIL).partition(":")
                self._sign_tail(int(size), signature)
            else:
                self._flush()
                self._pending = state
        except ValueError:
            raise invalid_field(field, "is not what this provider sent") from None

    def finish(self) -> list[dict[str, Any]]:
        """Returns the parts."""
        self._flush()
        first = next((part for part in self._parts if "functionCall" in part), None)
        if self._strict and first is not None and "thoughtSignature" not in first:
            first["thoughtSignature"] = _UNSIGNED
        return self._parts

    def _flush(self) -> None:
        """A signature that nothing followed stands alone."""
        if self._pending:
            self.add({"text": ""})

    def _sign_tail(self, size: int, signature: str) -> None:
        last = self._parts[-1] if self._parts else {}
        if not size or "text" not in last or "thoughtSignature" in last:
            self._parts.append({"text": "", "thoughtSignature": signature})
            return
        data = last["text"].encode()
        if size >= len(data) or data[-size] & 0xC0 == 0x80:  # all of it, or no longer the text that was signed
            last["thoughtSignature"] = signature
            return
        last["text"] = data[:-size].decode()
        self._parts.append({"text": data[-size:].decode(), "thoughtSignature": signature})
