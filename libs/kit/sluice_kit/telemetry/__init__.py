"""What a process tells of itself: metrics for Prometheus, and traces by OTLP. Both are off unless configured.

A process has one `Telemetry`, as it has one configuration of its logs: `current()`. Whoever has something to tell calls
a method of it that is named for what happened (`attempt_ended`, `watcher_stalled`). Switched off it is the base class,
whose methods do nothing, and neither prometheus_client nor opentelemetry is imported.

Nothing of it names a prompt, an answer, a key, a message of an error or anything else that callers or vendors wrote,
except model names, and of those only so many (`labels`).
"""

from sluice_kit.config import AuthConfig, ConfigDocument, ConfigError, check_listeners
from sluice_kit.telemetry.base import OFF, Telemetry
from sluice_kit.telemetry.settings import TelemetryConfig

__all__ = ["Telemetry", "TelemetryConfig", "configure", "current", "switch"]

_current: Telemetry = OFF


def current() -> Telemetry:
    """Returns the telemetry of this process. Whoever is made once asks once."""
    return _current


def switch(telemetry: Telemetry) -> Telemetry:
    """Makes another the process's own, and returns the one before."""
    global _current
    before, _current = _current, telemetry
    return before


def configure(document: ConfigDocument, service: str, integration: str = "") -> Telemetry:
    """Makes the telemetry of this process from the section `telemetry`. Raises ConfigError.

    Before anything is made that tells something. It runs, listens and sends within `async with telemetry.running()`.
    """
    config = document.section("telemetry", TelemetryConfig)
    if config.metrics is None and config.otlp is None:
        switch(OFF)  # a process that is configured anew, in tests
        return OFF
    if config.metrics is not None:
        host, colon, port = config.metrics.rpartition(":")
        if not (host and colon and port.isdigit() and int(port) < 65536):
            raise document.error("telemetry.metrics", f"expected host:port, not {config.metrics}")
        check_listeners(document, document.section("auth", AuthConfig), [("telemetry.metrics", config.metrics)])
    for name, secret in config.otlp_headers.items():
        if secret.missing is not None:
            raise document.error(f"telemetry.otlp_headers.{name}", f"the variable {secret.missing} is not set")
    try:
        from sluice_kit.telemetry.recording import Recording
    except ModuleNotFoundError as error:
        raise ConfigError(f"telemetry needs the package {error.name}: install sluice-kit[telemetry]") from None
    telemetry = Recording(config, service, integration)
    switch(telemetry)
    return telemetry
