"""The caller's trace, passed on with every call: W3C trace context.

OpenTelemetry is not needed, and not imported: where the program uses it, its active span is found; where it does not, a
`traceparent` that came from elsewhere can be set by hand.
"""

import sys
from contextvars import ContextVar
from typing import Any, Final

traceparent: Final[ContextVar[str | None]] = ContextVar("sluice_traceparent", default=None)
"""A `traceparent` for the calls that the running task makes. None: that of OpenTelemetry's active span, if there is one."""


def trace_context() -> tuple[tuple[str, str], ...]:
    """Returns the metadata that puts a call into the caller's trace. Empty: there is none."""
    given = traceparent.get()
    if given is not None:
        return (("traceparent", given),)
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return ()  # whoever is in a span has loaded it
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return ()
    head = ("traceparent", f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags) & 1:02x}")
    state = context.trace_state.to_header()
    return (head, ("tracestate", state)) if state else (head,)
