"""Performs a script: what the `scripted` adapter emits, when, and how it fails."""

import asyncio
import itertools
import json
import re
from collections.abc import Iterator
from typing import Final

from sluice.chat.v1 import event_pb2, usage_pb2
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice_providers import tokens
from sluice_providers.base import Adapter, Emitter
from sluice_providers.script import FAULTS, Script, ToolStep, UsageSpec, parse_fault, pieces, tool_name

_WORD: Final = re.compile(r"\s*\S+\s*|\s+")
_FINISH: Final = {
    "stop": usage_pb2.FINISH_REASON_STOP,
    "length": usage_pb2.FINISH_REASON_LENGTH,
    "tool_calls": usage_pb2.FINISH_REASON_TOOL_CALLS,
    "content_filter": usage_pb2.FINISH_REASON_CONTENT_FILTER,
}
_AT_THE_END: Final = frozenset({"double", "trailing"})


class _Stop(Exception):
    """Ends a play before its last step; the answer is complete all the same."""


class _Cut(Exception):
    """Ends a play without the terminal event."""


class Play:
    """One performance of a script: its events in order, its pauses, and its fault where it strikes."""

    def __init__(
        self, adapter: Adapter, script: Script, request: pb.GenerateRequest, emitter: Emitter, *, strikes: bool
    ) -> None:
        self._adapter = adapter
        self._script = script
        self._request = request
        self._emitter = emitter
        self._fault, self._fault_at = parse_fault(script.fault) if script.fault and strikes else ("", 0)
        self._batch = pb.GenerateResponse()
        self._sent = 0
        self._output = self._reasoned = 0
        self._paused = False
        self._limit = request.parameters.max_output_tokens or 0
        self._finish = script.finish or ("tool_calls" if script.steps and script.steps[-1].tool else "stop")

    async def run(self) -> None:
        if self._fault == "unstarted":
            self._add(event_pb2.Event(text_delta=event_pb2.TextDelta(text="x")))
            await self._flush()
        if self._fault and self._fault_at < 0:
            await self._pause(self._script.ttft_ms)
            await self._strike(self._fault)
        started = event_pb2.Started(
            vendor_request_id=f"scripted-{self._request.attempt_id}", model=self._request.target.model
        )
        self._add(event_pb2.Event(started=started))
        if self._script.usage == "early":
            self._add(event_pb2.Event(usage_update=event_pb2.UsageUpdate(usage=self._usage())))
        await self._flush()
        try:
            await self._content()
        except _Stop:
            pass
        except _Cut:
            await self._flush()
            return
        completed = event_pb2.Completed(finish_reason=_FINISH[self._finish], raw_finish_reason=self._finish)
        if self._script.usage != "none":
            completed.usage.CopyFrom(self._usage())
        self._add(event_pb2.Event(completed=completed))
        if self._fault == "double":
            self._add(event_pb2.Event(completed=completed))
        if self._fault == "trailing":
            self._add(event_pb2.Event(text_delta=event_pb2.TextDelta(text="x")))
        await self._flush()

    async def _content(self) -> None:
        if self._fault == "empty":
            return
        waiting = self._script.ttft_ms
        for event, pause in self._events():
            waiting += pause
            if event is None:
                continue
            if isinstance(event, str):
                await self._flush()
                await self._strike(event)
                continue
            if self._fault and self._sent == self._fault_at and self._fault not in _AT_THE_END:
                await self._flush()
                await self._pause(waiting)
                await self._strike(self._fault)
                return
            if waiting:
                await self._flush()
                await self._pause(waiting)
                waiting = 0.0
            self._add(event)
            self._sent += 1
            if len(self._batch.events) >= self._script.batch:
                await self._flush()
                waiting = self._script.delay_ms
        if self._fault and self._fault not in _AT_THE_END and self._sent <= self._fault_at:
            await self._flush()
            await self._strike(self._fault)

    def _events(self) -> Iterator[tuple[event_pb2.Event | str | None, float]]:
        """Yields events (or the name of a fault), each with the pause in milliseconds before it."""
        block = -1
        kind = ""
        start = end = 0  # of the last text step, in bytes of its block
        stops = [stop for stop in self._request.parameters.stop if stop]
        for same, group in itertools.groupby(self._script.steps, key=lambda step: step.tool is not None):
            if same:
                calls = [step.tool for step in group if step.tool is not None]
                yield from self._calls(calls, block + 1)
                block, kind = block + len(calls), "tool"
                continue
            for step in group:
                if step.text is not None:
                    if kind != "text":
                        block, kind, end = block + 1, "text", 0
                    text = step.text
                    cut = min((text.find(stop) for stop in stops if stop in text), default=-1)
                    text = text if cut < 0 else text[:cut]
                    start, end = end, end + len(text.encode())
                    for word in _WORD.findall(text):
                        self._count(reasoning=False)
                        yield event_pb2.Event(text_delta=event_pb2.TextDelta(block_index=block, text=word)), 0.0
                    if cut >= 0:
                        return
                elif step.reasoning is not None:
                    if kind != "reasoning":
                        block, kind = block + 1, "reasoning"
                    for word in _WORD.findall(step.reasoning):
                        self._count(reasoning=True)
                        delta = event_pb2.ReasoningDelta(block_index=block, text=word)
                        yield event_pb2.Event(reasoning_delta=delta), 0.0
                elif step.cite is not None:
                    delta_cite = event_pb2.CitationDelta(
                        block_index=max(block, 0),
                        passage_id=step.cite.passage,
                        start_line=step.cite.start_line,
                        end_line=step.cite.end_line,
                    )
                    delta_cite.answer_span.start, delta_cite.answer_span.end = start, end
                    yield event_pb2.Event(citation_delta=delta_cite), 0.0
                elif step.fault is not None:
                    yield step.fault, 0.0
                else:
                    yield None, step.wait_ms or 0.0

    def _calls(self, calls: list[ToolStep], block: int) -> Iterator[tuple[event_pb2.Event, float]]:
        """Yields parallel tool calls: first the heads, then their fragments in turn."""
        fragments: list[list[event_pb2.ToolCallDelta]] = []
        offered = [tool_name(tool) for tool in self._request.tools] or ["tool"]
        for index, call in enumerate(calls):
            head = event_pb2.ToolCallDelta(
                block_index=block + index, id=call.id or f"call_{index + 1}", name=call.name or offered[0]
            )
            self._count(reasoning=False)
            yield event_pb2.Event(tool_call_delta=head), 0.0
            text = call.input if call.input is not None else json.dumps(call.arguments)
            field = "input_text" if call.input is not None else "arguments_json"
            made = [event_pb2.ToolCallDelta(block_index=block + index) for _ in pieces(text, call.fragments)]
            for delta, piece in zip(made, pieces(text, call.fragments), strict=True):
                setattr(delta, field, piece)
            fragments.append(made)
        for row in itertools.zip_longest(*fragments):
            for delta in filter(None, row):
                yield event_pb2.Event(tool_call_delta=delta), 0.0

    def _count(self, *, reasoning: bool) -> None:
        if self._limit and self._output >= self._limit:
            self._finish = "length"
            raise _Stop
        self._output += 1
        self._reasoned += reasoning

    async def _strike(self, fault: str) -> None:
        kind = fault.partition("@")[0]
        if kind == "stall":
            await asyncio.Event().wait()
        elif kind == "crash":
            raise RuntimeError("a script asked for a crash")
        elif kind == "cut":
            raise _Cut
        elif kind == "empty":
            raise _Stop
        elif kind == "restart":
            self._add(event_pb2.Event(started=event_pb2.Started()))
        elif kind == "foreign":
            self._add(event_pb2.Event(accepted=event_pb2.Accepted(response="responses/none")))
        elif kind not in FAULTS:
            error = self._adapter.error(ErrorReason.Value(f"ERROR_REASON_{kind}"), f"the script asked for {kind}")
            error.retry_after = self._script.retry_after_s
            raise error
        await self._flush()

    def _usage(self) -> usage_pb2.Usage:
        spec = self._script.usage if isinstance(self._script.usage, UsageSpec) else UsageSpec()
        prompt = tokens.estimate_prompt(self._request.messages, self._request.system_instruction, self._request.tools)
        return usage_pb2.Usage(
            input_tokens=prompt if spec.input is None else spec.input,
            cached_input_tokens=spec.cached,
            output_tokens=self._output if spec.output is None else spec.output,
            reasoning_tokens=self._reasoned if spec.reasoning is None else spec.reasoning,
            source=usage_pb2.USAGE_SOURCE_PROVIDER,
        )

    def _add(self, event: event_pb2.Event) -> None:
        self._batch.events.append(event)

    async def _flush(self) -> None:
        if self._batch.events:
            batch, self._batch = self._batch, pb.GenerateResponse()
            await self._emitter.emit(batch)

    @staticmethod
    async def _pause(milliseconds: float) -> None:
        if milliseconds > 0:
            await asyncio.sleep(milliseconds / 1000)
