"""Asks a service whether it serves, for where nothing else can: health checks of Compose, `kubectl exec`, scripts.

    python -m sluice_kit.probe ADDRESS [--service NAME] [--timeout SECONDS]

It makes one call of `grpc.health.v1` without a key and without TLS, as a service's `probe` takes it, and prints what came
back. Exit codes: 0 for SERVING, 1 for any other status, 2 where the call failed or the arguments are wrong.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING: Final = 0
NOT_SERVING: Final = 1
FAILED: Final = 2


def ask(address: str, service: str, timeout: float) -> str:
    """Returns the name of the status that a service reports.

    `address` is `host:port` or `unix:/path`, `service` a name of its health checks (empty: the whole process), `timeout`
    in seconds, connecting included. Raises grpc.RpcError.
    """
    # A proxy of the environment is for the world outside.
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its methods are not in the stubs
        reply = stub.Check(request, timeout=timeout)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def main(argv: Sequence[str] | None = None) -> int:
    """Asks once, prints the status or why there is none, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sluice_kit.probe", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("address", help="host:port, or unix:/path")
    parser.add_argument("--service", default="", metavar="NAME", help="whose health; the whole process if left out")
    parser.add_argument("--timeout", type=float, default=2.0, metavar="SECONDS", help="longest wait (2)")
    options = parser.parse_args(argv)
    try:
        status = ask(options.address, options.service, options.timeout)
    except grpc.RpcError as error:
        print(f"{options.address}: {error.code().name}: {error.details()}", file=sys.stderr)
        return FAILED
    print(status)
    return SERVING if status == "SERVING" else NOT_SERVING


if __name__ == "__main__":
    sys.exit(main())
