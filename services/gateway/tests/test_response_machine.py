"""One response under any order of upstream events, faults and client actions; `machine.py` has the machine."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from sluice.chat.v1 import event_pb2 as ev
from sluice.chat.v1.usage_pb2 import Usage, UsageSource

from .machine import OneResponse, R

OneResponse.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,  # how long a step takes says nothing
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestOneResponse = OneResponse.TestCase


class OneAnswer(OneResponse):
    """One response that nobody leaves or cancels, so that more of it is what attempts make of it."""

    @initialize(
        useless=st.integers(0, 2),
        fallback=st.booleans(),
        default=st.booleans(),
        form=st.booleans(),
        restart=st.booleans(),
    )
    def ask(self, useless: int, **chosen: bool) -> None:
        super().ask(small=False, grace=30, background=True, limit=None, **chosen)
        for _ in range(useless):
            self.upstream_fails(R.ERROR_REASON_UPSTREAM_AUTHENTICATION)

    def leave(self) -> None:
        pass

    def cancel(self) -> None:
        pass

    def stop_or_go_on_reading(self) -> None:
        pass

    def upstream_breaks_the_order(self) -> None:
        pass

    def describe(self) -> None:
        pass

    def resume_near_the_end(self) -> None:
        pass

    def upstream_writes_without_starting(self) -> None:
        pass

    @rule(count=st.integers(1, 2), at_once=st.booleans())
    def upstream_answers(self, count: int, at_once: bool) -> None:
        done = ev.Event(completed=ev.Completed(usage=Usage(output_tokens=1, source=UsageSource.USAGE_SOURCE_PROVIDER)))
        deltas = self._deltas(count, 0)
        if at_once:
            self._content(*deltas, done)
        else:
            self._content(*deltas)
            self._content(done)
        self.upstream_ends()

    def time_passes(self) -> None:
        pass


OneAnswer.TestCase.settings = settings(OneResponse.TestCase.settings, max_examples=40, stateful_step_count=12)
TestOneAnswer = OneAnswer.TestCase
