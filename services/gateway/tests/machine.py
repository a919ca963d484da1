"""One response under any order of upstream events, faults and client actions: invariants 2 and 3 hold at every step.

The gateway is whole but for grpc: its chat service is called as the dispatcher calls it, and its adapter is one that
does what the machine says. Time is virtual.
"""

import asyncio
import json
import tempfile
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sluice.chat.v1 import event_pb2 as ev
from sluice.chat.v1.message_pb2 import Message, MessageRole, Part
from sluice.chat.v1.usage_pb2 import Usage, UsageSource
from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.gateway.v1 import chat_service_pb2 as pb
from sluice.provider.v1.provider_service_pb2 import GenerateResponse
from sluice_gateway.service import Gateway
from sluice_kit.auth import LocalAuthenticator
from sluice_kit.call import Call
from sluice_kit.errors import make_error
from sluice_kit.identity import LOCAL_IDENTITY
from sluice_kit.rpc import Dispatcher
from sluice_kit.testing import document_of

from .players import Attempt, Upstream, View
from .virtual import VirtualLoop

R = ErrorReason
LIMITS = {"ttft_seconds": 8, "idle_seconds": 8, "total_seconds": 60}
# They end a watcher, not the response.
OF_THE_WATCHER = {R.ERROR_REASON_WATCHER_STALLED, R.ERROR_REASON_RESUME_WINDOW_EXPIRED, R.ERROR_REASON_INVALID_REQUEST}
FAULTS = (
    R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
    R.ERROR_REASON_UPSTREAM_OVERLOADED,
    R.ERROR_REASON_UPSTREAM_UNAVAILABLE,
    R.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT,
    R.ERROR_REASON_SERVICE_UNREACHABLE,
    R.ERROR_REASON_UPSTREAM_AUTHENTICATION,
    R.ERROR_REASON_CONTENT_FILTERED,
)


class OneResponse(RuleBasedStateMachine):
    """What may happen to one response."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.folder = tempfile.TemporaryDirectory()
        self.views: list[View] = []
        self.upstream = Upstream()
        self.name = ""
        self.cancels: list[asyncio.Task[pb.CancelChatResponse]] = []
        self.deltas = 0

    @initialize(
        small=st.booleans(),
        grace=st.sampled_from([None, 0, 3, 30]),
        background=st.booleans(),
        limit=st.sampled_from([None, 2, 20]),
        fallback=st.booleans(),
        default=st.booleans(),
        form=st.booleans(),
        restart=st.booleans(),
    )
    def ask(
        self,
        small: bool,
        grace: int | None,
        background: bool,
        limit: int | None,
        fallback: bool,
        default: bool,
        form: bool,
        restart: bool,
    ) -> None:
        log = {"response_bytes": 400} if small else {}
        section: dict[str, Any] = {
            "log": log,
            "limits": LIMITS,
            "integrations": {"scripted": {"colocate": True}},
            "watchers": {"heartbeat_seconds": 2, "stall_seconds": 5, "queue_bytes": 150},
        }
        if default:
            section["default_model"] = "scripted/c"
        self.default, self.form = default, form
        sections = {"providers": {"scripted": {"adapter": "scripted"}}, "state_dir": self.folder.name}
        document = document_of({**sections, "gateway": section}, Path(self.folder.name))
        added: dict[str, Any] = {}
        server = SimpleNamespace(
            add=lambda service, implementation, *_: added.update({service.name: implementation}),
            dispatcher=Dispatcher(LocalAuthenticator()),
            add_generic=lambda *_: None,
        )
        self.gateway = Gateway(document)

        async def start() -> None:
            self.gateway.register(server)  # type: ignore[arg-type]  # takes the services and serves nothing
            self.gateway._integrations.get("scripted").generator = self.upstream  # type: ignore[assignment]  # as much of it as is used
            await self.gateway.start()

        self.upstream.start = self._nothing  # type: ignore[attr-defined]  # part of the port
        self.loop.finish(start())
        self.chat = added["ChatService"]
        self.spec = pb.ChatSpec(
            model="scripted/a",
            fallbacks=["scripted/b"] if fallback else [],
            messages=[Message(role=MessageRole.MESSAGE_ROLE_USER, parts=[Part(text="hello")])],
        )
        if grace is not None:
            self.spec.detach_grace.FromSeconds(grace)
        if limit is not None:
            self.spec.max_duration.FromSeconds(limit)
        if background:
            self.spec.background = True
        if form:
            # One delta is a number, two are none.
            self.spec.response_format.json_schema.name = "number"
            self.spec.response_format.json_schema.schema_json = '{"type": "number"}'
        if restart:
            self.spec.midstream_policy = pb.MidstreamPolicy.MIDSTREAM_POLICY_RESTART
        self.request_id = str(uuid.UUID(int=7, version=4))
        self.repeat()
        self.loop.advance(0.1)
        accepted = ev.Event.FromString(self.views[0].events[0][1]).accepted
        self.name = accepted.response
        self.response = self.gateway.responses._by_id[self.name.removeprefix("responses/")]

    @staticmethod
    async def _nothing() -> None:
        pass

    # What clients do.

    def _watch(self, view: View, call: Any) -> None:
        view.task = self.loop.create_task(call)
        self.views.append(view)
        self.loop.spin()

    def _call(self, method: str) -> Call:
        return Call(f"/sluice.gateway.v1.ChatService/{method}", LOCAL_IDENTITY)

    @rule()
    def repeat(self) -> None:
        view = View(0)
        request = pb.StreamChatRequest(spec=self.spec, request_id=self.request_id)
        self._watch(view, self.chat.StreamChat(request, self._call("StreamChat"), view.send))

    @rule(back=st.integers(-1, 12))
    def resume_near_the_end(self, back: int) -> None:
        self.resume(max(0, self.response.log.last_sequence - back))

    @rule(after=st.integers(0, 6))
    def resume(self, after: int) -> None:
        view = View(after)
        request = pb.ResumeChatRequest(response=self.name, after_sequence=after)
        self._watch(view, self.chat.ResumeChat(request, self._call("ResumeChat"), view.send))

    @rule(which=st.integers(0, 100))
    def leave(self, which: int) -> None:
        running = [view for view in self.views if not view.task.done()]
        if running:
            view = running[which % len(running)]
            view.left = True
            view.task.cancel()
            self.loop.spin()

    @rule(which=st.integers(0, 100))
    def stop_or_go_on_reading(self, which: int) -> None:
        view = self.views[which % len(self.views)]
        if view.open.is_set():
            view.open.clear()
        else:
            view.open.set()
        self.loop.spin()

    @rule()
    def cancel(self) -> None:
        request = pb.CancelChatRequest(response=self.name)
        self.cancels.append(self.loop.create_task(self.chat.CancelChat(request, self._call("CancelChat"))))
        self.loop.spin()

    @rule()
    def describe(self) -> None:
        request = pb.GetResponseRequest(response=self.name)
        task = self.loop.create_task(self.chat.GetResponse(request, self._call("GetResponse")))
        self.loop.spin()
        described = task.result()
        assert described.last_sequence == self.response.log.last_sequence
        assert described.answer.text in {attempt.text[: len(described.answer.text)] for attempt in self._texts()}
        completed = described.state == pb.ResponseState.RESPONSE_STATE_COMPLETED
        assert described.answer.HasField("completed") == completed
        assert described.HasField("error") == (
            described.state not in (pb.RESPONSE_STATE_RUNNING, pb.RESPONSE_STATE_COMPLETED)
        )

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.5, 4.0, 9.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.advance(seconds)

    # What the upstream does.

    def _upstream(self, *events: ev.Event) -> None:
        attempt = self.upstream.current
        if attempt is not None:
            attempt.text += "".join(event.text_delta.text for event in events)
            attempt.commands.put_nowait(GenerateResponse(events=events))
            self.loop.spin()

    def _texts(self) -> list[Attempt]:
        return [*self.upstream.attempts, Attempt()]

    def _deltas(self, count: int, size: int) -> list[ev.Event]:
        made = []
        for _ in range(count):
            self.deltas += 1
            made.append(ev.Event(text_delta=ev.TextDelta(text=f"{self.deltas}{'.' * size} ")))
        return made

    def _content(self, *events: ev.Event) -> None:
        attempt = self.upstream.current
        if attempt is not None:
            first = () if attempt.started else (ev.Event(started=ev.Started(model="m")),)
            attempt.started = True
            self._upstream(*first, *events)

    @rule()
    def upstream_starts(self) -> None:
        self._content()

    @rule(count=st.integers(1, 4), size=st.sampled_from([0, 3, 60, 300]))
    def upstream_writes(self, count: int, size: int) -> None:
        self._content(*self._deltas(count, size))

    @rule(count=st.integers(2, 6))
    def upstream_writes_more(self, count: int) -> None:
        self._content(*self._deltas(count, 1))

    @rule()
    def upstream_writes_without_starting(self) -> None:
        attempt = self.upstream.current
        if attempt is not None and not attempt.started:
            self._upstream(*self._deltas(1, 1))

    @rule(content=st.booleans())
    def upstream_completes(self, content: bool) -> None:
        usage = Usage(output_tokens=3, source=UsageSource.USAGE_SOURCE_PROVIDER)
        done = ev.Event(completed=ev.Completed(usage=usage))
        self._content(*(self._deltas(1, 1) if content else ()), done)

    @rule()
    def upstream_says_other_things(self) -> None:
        usage = ev.Event(usage_update=ev.UsageUpdate(usage=Usage(output_tokens=1)))
        self._content(usage, ev.Event(notice=ev.Notice(code=ev.NoticeCode.NOTICE_CODE_NO_MODEL)))

    @rule()
    def upstream_gives_a_sign_of_life(self) -> None:
        self._upstream()

    @precondition(lambda self: self.upstream.attempts and len(self.upstream.attempts[-1].text) > 20)
    @rule(foreign=st.booleans())
    def upstream_breaks_the_order(self, foreign: bool) -> None:
        accepted, started = ev.Event(accepted=ev.Accepted(response="x")), ev.Event(started=ev.Started(model="m"))
        self._upstream(accepted if foreign else started)

    @rule(reason=st.sampled_from([*FAULTS, None]))
    def upstream_fails(self, reason: Any) -> None:
        attempt = self.upstream.current
        if attempt is not None:
            attempt.commands.put_nowait(RuntimeError("defect") if reason is None else make_error(reason, "said so"))
            self.loop.spin()

    @rule()
    def upstream_ends(self) -> None:
        attempt = self.upstream.current
        if attempt is not None:
            attempt.commands.put_nowait(None)
            self.loop.spin()

    # What must hold.

    @invariant()
    def numbers_have_no_gap_and_events_never_differ(self) -> None:
        canonical: dict[int, bytes] = {}
        for view in self.views:
            assert [number for number, _ in view.events] == list(
                range(view.after + 1, view.after + 1 + len(view.events))
            )
            for number, event in view.events:
                assert canonical.setdefault(number, event) == event
        kinds = {number: ev.Event.FromString(event).WhichOneof("kind") for number, event in canonical.items()}
        completed = [number for number, kind in kinds.items() if kind == "completed"]
        assert len(completed) <= 1
        assert not completed or completed[0] == max(canonical)
        assert all((kind == "accepted") == (number == 1) for number, kind in kinds.items())

    @invariant()
    def the_text_is_that_of_one_attempt(self) -> None:
        for view in self.views:
            if view.after == 0:
                text = _text(view)
                assert any(attempt.text.startswith(text) for attempt in self._texts())
                if self.form and view.events and ev.Event.FromString(view.events[-1][1]).HasField("completed"):
                    assert isinstance(json.loads(text), float | int)

    @invariant()
    def status_ok_means_completed(self) -> None:
        reasons = set()
        last = self.response.log.last_sequence
        for view in self.views:
            if not view.ended or view.reason in OF_THE_WATCHER:
                continue
            reasons.add(view.reason)
            # Every end comes after every event.
            assert view.after + len(view.events) == last
            if view.events:
                kind = ev.Event.FromString(view.events[-1][1]).WhichOneof("kind")
                assert (kind == "completed") == (view.reason is None)
        assert len(reasons) <= 1, reasons
        if reasons:
            assert not any(attempt.running for attempt in self.upstream.attempts)

    @invariant()
    def the_default_model_is_announced_and_comes_last(self) -> None:
        models = [attempt.model for attempt in self.upstream.attempts]
        assert "c" not in models or self.default
        assert "c" not in models or set(models[models.index("c") :]) == {"c"}
        for view in self.views:
            if view.after == 0 and view.ended:
                told = [_is_told(ev.Event.FromString(event)) for _, event in view.events]
                # Who was ended for the window of the log, or for its own slowness, has not seen all of it.
                if view.reason not in OF_THE_WATCHER:
                    assert told.count(True) == int("c" in models)

    def teardown(self) -> None:
        try:
            if self.name:
                self._end()
        finally:
            if hasattr(self, "gateway"):
                for view in self.views:
                    view.task.cancel()
                self.loop.finish(self.gateway.stop())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            self.folder.cleanup()

    def _end(self) -> None:
        """Whatever happened, it ends: silence, the limit of the whole, or its own grace sees to that."""
        for view in self.views:
            view.open.set()
        self.loop.advance(90)
        assert not any(attempt.running for attempt in self.upstream.attempts)
        assert all(view.task.done() for view in self.views)
        self.resume(0)
        self.loop.advance(1)
        assert self.views[-1].task.done()
        self.numbers_have_no_gap_and_events_never_differ()
        self.status_ok_means_completed()
        rows = self.loop.finish(self.gateway._ledger.rows("attempts"))
        assert len(rows) >= len(self.upstream.attempts)
        assert "running" not in {row["outcome"] for row in rows}
        for task in self.cancels:
            task.result()


def _text(view: View) -> str:
    """Returns what a client shows: what was made void is gone."""
    shown: list[tuple[int, str]] = []
    for number, body in view.events:
        event = ev.Event.FromString(body)
        if event.HasField("restarted"):
            shown = [(at, text) for at, text in shown if at < event.restarted.discard_from]
        shown.append((number, event.text_delta.text))
    return "".join(text for _, text in shown)


def _is_told(event: ev.Event) -> bool:
    return event.HasField("notice") and event.notice.code == ev.NoticeCode.NOTICE_CODE_DEFAULT_MODEL
