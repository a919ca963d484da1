"""Where the processes of a mesh on one machine serve their metrics: each needs a port of its own."""

from collections.abc import Sequence
from dataclasses import replace

from sluice_cli.supervisor.plan import ChildSpec
from sluice_kit.config import ConfigDocument


def spread(document: ConfigDocument, children: Sequence[ChildSpec]) -> tuple[ChildSpec, ...]:
    """Returns the processes with `telemetry.metrics` for each: the gateway's as configured, then the ports that follow.

    Without the setting, with port 0 (any free one) or with one that is none (which the services refuse) they stay as
    they are.
    """
    section = document.data.get("telemetry")
    address = str((section if isinstance(section, dict) else {}).get("metrics") or "")
    host, _, port = address.rpartition(":")
    if not port.isdigit() or int(port) == 0:
        return tuple(children)
    order = sorted(range(len(children)), key=lambda index: children[index].kind != "gateway")
    ports = {index: int(port) + place for place, index in enumerate(order)}
    return tuple(
        replace(child, arguments=(*child.arguments, "--set", f"telemetry.metrics={host}:{ports[index]}"))
        for index, child in enumerate(children)
    )
