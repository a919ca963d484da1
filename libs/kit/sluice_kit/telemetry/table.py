"""Every metric there is. Documentation, dashboard and alerts are checked against this table, and so is what is served.

Names end in their unit, counters in `_total`, as Prometheus has it. Times are in seconds.
"""

from typing import Final, Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]


class Metric(NamedTuple):
    """One metric."""

    name: str
    kind: Kind
    served_by: str
    """The service that has it; `all`: every one."""
    help: str
    """What it says, for people, without a full stop."""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without infinity."""

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which its values are served."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{end}" for end in ("bucket", "sum", "count"))
        return (self.name,)


_CALLS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    1800.0,
)
_TTFT: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 120.0)
_GAPS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

BUILD_INFO: Final = Metric(
    "sluice_build_info", "gauge", "all", "1, with what runs here", ("service", "integration", "version")
)
RPC_DURATION: Final = Metric(
    "sluice_rpc_duration_seconds",
    "histogram",
    "all",
    "How long calls took, streams to their end, by the status they ended with",
    ("method", "code"),
    _CALLS,
)
RPC_IN_FLIGHT: Final = Metric("sluice_rpc_in_flight", "gauge", "all", "Calls being served", ("method",))
LOOP_LAG: Final = Metric(
    "sluice_event_loop_lag_seconds",
    "histogram",
    "all",
    "How much later than asked for the event loop came back, four times a second",
    (),
    _LAG,
)
SPANS: Final = Metric(
    "sluice_spans_total",
    "counter",
    "all",
    "Spans that the collector took, or that were dropped without it",
    ("result",),
)
CERTIFICATE_EXPIRY: Final = Metric(
    "sluice_certificate_expiry_timestamp_seconds",
    "gauge",
    "all",
    "When a certificate of the process's own ends, in seconds since 1970",
    ("file",),
)
CERTIFICATE_START: Final = Metric(
    "sluice_certificate_start_timestamp_seconds",
    "gauge",
    "all",
    "When a certificate of the process's own began to hold: what is left of its life is judged by how long that is",
    ("file",),
)

RESPONSES: Final = Metric(
    "sluice_responses_total",
    "counter",
    "gateway",
    "Responses that ended: completed, failed or cancelled, and the reason of those that did not complete",
    ("outcome", "reason"),
)
RESPONSE_DURATION: Final = Metric(
    "sluice_response_duration_seconds",
    "histogram",
    "gateway",
    "From the acceptance of a response to its end",
    ("outcome",),
    _CALLS,
)
RESPONSE_TTFT: Final = Metric(
    "sluice_response_ttft_seconds",
    "histogram",
    "gateway",
    "From the acceptance of a response to its first content, search and failed attempts included",
    (),
    _TTFT,
)
RESPONSES_RUNNING: Final = Metric("sluice_responses_running", "gauge", "gateway", "Responses being made")
WATCHERS: Final = Metric("sluice_watchers", "gauge", "gateway", "Calls that read responses being made")
WATCHERS_STALLED: Final = Metric(
    "sluice_watchers_stalled_total", "counter", "gateway", "Calls that were ended because their client took nothing"
)
STREAM_GAP: Final = Metric(
    "sluice_stream_gap_seconds",
    "histogram",
    "gateway",
    "Between one batch of an attempt's content and the next, as adapters send them",
    (),
    _GAPS,
)
STREAM_EVENTS: Final = Metric(
    "sluice_stream_events_total", "counter", "gateway", "Events of content and of usage that adapters sent"
)
ADMISSION_IN_FLIGHT: Final = Metric(
    "sluice_admission_in_flight", "gauge", "gateway", "What counts against the limits of admission", ("kind",)
)
ADMISSION_LIMIT: Final = Metric("sluice_admission_limit", "gauge", "gateway", "The limits of admission", ("kind",))

ATTEMPTS: Final = Metric(
    "sluice_attempts_total",
    "counter",
    "gateway",
    "Attempts that ended, by target, outcome and reason",
    ("operation", "provider", "model", "outcome", "reason"),
)
ATTEMPT_TTFT: Final = Metric(
    "sluice_attempt_ttft_seconds",
    "histogram",
    "gateway",
    "From the beginning of an attempt to its first content",
    ("provider", "model"),
    _TTFT,
)
TOKENS: Final = Metric(
    "sluice_tokens_total",
    "counter",
    "gateway",
    "Tokens used; cached_input is a part of input, and reasoning of output",
    ("provider", "model", "kind"),
)
COST: Final = Metric(
    "sluice_cost_usd_total",
    "counter",
    "gateway",
    "What attempts cost by the configured prices, in US dollars",
    ("provider", "model"),
)
CACHE_ANSWERS: Final = Metric("sluice_cache_answers_total", "counter", "gateway", "Answers that came from the cache")
BREAKER: Final = Metric(
    "sluice_breaker_state",
    "gauge",
    "gateway",
    "Circuit breakers: 0 closed, 1 half open, 2 open. Every integration has one; its targets are there when not closed",
    ("circuit",),
)

LOG_BYTES: Final = Metric(
    "sluice_response_log_bytes", "gauge", "gateway", "Bytes that the events and answers of kept responses take"
)
LOG_LIMIT: Final = Metric(
    "sluice_response_log_limit_bytes", "gauge", "gateway", "How many of them there may be (gateway.log.total_bytes)"
)
WATCHER_BACKLOG: Final = Metric(
    "sluice_watcher_backlog_bytes",
    "gauge",
    "gateway",
    "Bytes that the watcher that is furthest behind has yet to be sent",
)
STORE_BACKLOG: Final = Metric(
    "sluice_store_backlog_bytes", "gauge", "gateway", "Bytes that wait to be taken by the shared log"
)
LEDGER_BACKLOG: Final = Metric(
    "sluice_ledger_backlog_rows", "gauge", "gateway", "Rows of the ledger that wait to be written"
)

SEARCH_DURATION: Final = Metric(
    "sluice_search_duration_seconds", "histogram", "retrieval", "How long searches took", ("mode",), _CALLS
)
SEARCH_PASSAGES: Final = Metric(
    "sluice_search_passages_total", "counter", "retrieval", "Passages that searches returned"
)
TASKS: Final = Metric(
    "sluice_tasks_total", "counter", "retrieval", "Tasks that ended, and why they failed", ("kind", "state", "reason")
)
TASK_DURATION: Final = Metric(
    "sluice_task_duration_seconds", "histogram", "retrieval", "How long tasks were at work", ("kind",), _CALLS
)
TASKS_RUNNING: Final = Metric("sluice_tasks_running", "gauge", "retrieval", "Tasks that run or wait for their turn")
CHUNKS: Final = Metric(
    "sluice_published_chunks_total", "counter", "retrieval", "Chunks of the generations of corpora that were published"
)

METRICS: Final[tuple[Metric, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order above."""

PROCESS: Final[tuple[str, ...]] = (
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "python_gc_collections_total",
)
"""What prometheus_client's own collectors add that the dashboard uses; there is more of it."""
