"""Runs the cases with the Python client: one JSON object a line says what to do, one a line says what came of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import Any

from google.protobuf import json_format

from sluice.chat.v1 import event_pb2, usage_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.task.v1 import task_service_pb2 as task_pb
from sluice_client import SluiceClient
from sluice_client.failures import StreamProtocolError
from sluice_client.streams import ChatStream
from sluice_kit.errors import TABLE, SluiceError


async def main() -> None:
    """Reads instructions until standard input ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        say(await run(json.loads(line)))


def say(what: dict[str, Any]) -> None:
    """Writes one line."""
    print(json.dumps(what), flush=True)


async def run(todo: dict[str, Any]) -> dict[str, Any]:
    """Does what one instruction says."""
    timeout = todo["timeout_ms"] / 1000 if "timeout_ms" in todo else None
    spec = json_format.ParseDict(todo.get("spec", {}), pb.ChatSpec())
    done: dict[str, Any] = {"events": [], "reconnects": 0, "left": False, "error": None, "response": "", "finish": ""}
    async with SluiceClient(todo["address"], todo.get("key")) as client:
        try:
            match todo["do"]:
                case "chat":
                    answer = await client.chat(spec, timeout=timeout)
                    done |= digest(answer.text) | {"response": answer.response, "finish": finish(answer.completed)}
                case "stream":
                    await stream(client.stream_chat(spec, timeout=timeout), todo, done)
                case "watch":
                    async with client.watch_task(todo["task"]) as tasks:
                        async for item in tasks:
                            done["finish"] = task_pb.TaskState.Name(item.task.state).removeprefix("TASK_STATE_")
                            note(done, done["finish"], item.sequence)
                        done["reconnects"] = tasks.reconnects
                case "reasons":
                    rows = sorted(
                        (ErrorReason.Name(reason)[len("ERROR_REASON_") :], row) for reason, row in TABLE.items()
                    )
                    done["retryable"] = [name for name, row in rows if row.retryable]
                    done["permanent"] = [*(name for name, row in rows if not row.retryable), "UNSPECIFIED"]
        except SluiceError as error:
            done["error"] = described(error)
    return done


async def stream(events: ChatStream, todo: dict[str, Any], done: dict[str, Any]) -> None:
    """Reads an answer, and leaves it where it is told to."""
    words: list[str] = []
    reading = asyncio.create_task(read(events, todo, done, words))
    if todo.get("leave_told"):
        await asyncio.to_thread(sys.stdin.readline)
        reading.cancel()
        say({"leaving": True})
    try:
        await reading
    except asyncio.CancelledError:
        done["left"] = True
    finally:
        done |= digest("".join(words)) | {"response": events.response or "", "reconnects": events.reconnects}


async def read(events: ChatStream, todo: dict[str, Any], done: dict[str, Any], words: list[str]) -> None:
    """Notes the events as they come."""
    async with events:
        async for sequence, event in events:
            kind = event.WhichOneof("kind") or ""
            note(done, kind, sequence)
            if kind == "text_delta":
                words.append(event.text_delta.text)
            elif kind == "completed":
                done["finish"] = finish(event.completed)
            if sequence == todo.get("pause_after"):
                await asyncio.to_thread(sys.stdin.readline)
            if sequence == todo.get("leave_after"):
                done["left"] = True
                break


def note(done: dict[str, Any], kind: str, sequence: int) -> None:
    """Adds an event to the runs of events of one kind."""
    runs = done["events"]
    if runs and runs[-1][0] == kind and runs[-1][2] == sequence - 1:
        runs[-1][2] = sequence
    else:
        runs.append([kind, sequence, sequence])


def digest(text: str) -> dict[str, Any]:
    """Says what the text was without saying it."""
    data = text.encode()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def finish(completed: event_pb2.Completed) -> str:
    """Returns how an answer ended."""
    return usage_pb2.FinishReason.Name(completed.finish_reason).removeprefix("FINISH_REASON_")


def described(error: SluiceError) -> dict[str, Any]:
    """Returns a failure as the runners of all languages tell it."""
    return {
        "reason": error.reason_name,
        "code": error.code.name,
        "message": error.message,
        "retryable": error.retryable,
        "retry_after": error.retry_after or 0,
        "metadata": error.metadata,
        "violations": [[row.field, row.description] for row in error.violations],
        "protocol": isinstance(error, StreamProtocolError),
    }


if __name__ == "__main__":
    asyncio.run(main())
