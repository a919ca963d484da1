"""Structured logs: one line an event, with the call it belongs to, and without secrets.

Use the standard library's loggers and pass facts by `extra`: `log.info("call failed", extra={"method": path})`.
Prompts, answers, keys and vendors' error bodies are never logged; what looks like a credential is masked all the same.
"""

import json
import logging
import re
import sys
import time
from typing import Any, Final

from sluice_kit.call import current_call
from sluice_kit.config import LogConfig

_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}
# Keys of the vendors we know, bearer headers, and passwords inside addresses.
_CREDENTIAL: Final = re.compile(
    r"\b(?:sk|pk|rk|gsk|ghp|gho|github_pat|glpat|xox[abp])[-_][A-Za-z0-9_\-]{8,}"
    r"|\bAIza[A-Za-z0-9_\-]{20,}|\bAKIA[A-Z0-9]{12,}"
    r"|(?i:\bbearer\s+)[A-Za-z0-9._~+/=\-]{8,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_SENSITIVE_NAME: Final = re.compile(r"(?i)(api_?key|secret|password|passwd|credential|authorization|access_?token)")
MASK: Final = "***"
_QUIET: Final = (
    "aiohttp", "alembic.runtime.plugins", "anthropic", "asyncio", "azure", "boto3", "botocore", "google", "google_genai", "grpc",
    "httpcore", "httpcore2", "httpx", "httpx2", "msal", "openai", "requests", "s3transfer", "urllib3",
)  # fmt: skip  # names read better side by side


def redact(text: str) -> str:
    """Returns the text with everything that looks like a credential masked."""
    return _CREDENTIAL.sub(MASK, text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the call's request id, tenant and trace, and the extras."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.fields(record), ensure_ascii=False, default=str)

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        """Returns what the line says."""
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        call = current_call.get()
        if call is not None:
            fields["request_id"] = call.request_id
            fields["tenant"] = call.tenant
            if call.span.trace_id:
                fields["trace_id"] = call.span.trace_id
        for name, value in record.__dict__.items():
            if name not in _STANDARD and not name.startswith("_"):
                fields[name] = MASK if _SENSITIVE_NAME.search(name) else self._clean(value)
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = redact(self.formatException(record.exc_info))
        return fields

    @staticmethod
    def _clean(value: Any) -> Any:
        return value if isinstance(value, int | float | bool | None) else redact(str(value))


class TextFormatter(JsonFormatter):
    """The same for people: time, level, service, message and facts on one line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        head = f"{fields.pop('time')} {fields.pop('level'):7} {fields.pop('service')}: {fields.pop('message')}"
        fields.pop("logger")
        exception = fields.pop("exception", None)
        facts = " ".join(f"{name}={value}" for name, value in fields.items())
        return " ".join(filter(None, (head, facts))) + (f"\n{exception}" if exception else "")


def configure(config: LogConfig, service: str) -> None:
    """Sends every log of the process to standard error, formatted as configured."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service) if config.format == "json" else TextFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    # These log per request or per connection, some of them prompts; their news reaches us as exceptions.
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
