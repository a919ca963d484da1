"""The way to the gateway: the address, TLS, and proxies that other clients would take."""

import asyncio
import os
import ssl
import time
from collections.abc import Mapping
from typing import Final

from sluice_cli.checkup.findings import Findings
from sluice_cli.mesh import Target

_SECONDS: Final = 5.0
_SOON_DAYS: Final = 21
_PART: Final = "gateway"


async def knock(target: Target, findings: Findings) -> bool:
    """Looks whether somebody listens, and speaks what is asked of it. Returns whether it is worth going on."""
    began = time.perf_counter()
    try:
        certificate = await _connect(target, _verifying() if target.tls else None)
    except ssl.SSLCertVerificationError as error:
        findings.fail(
            _PART,
            f"its certificate is not accepted: {error.verify_message}",
            "renew it, or give clients the CA that signed it (SSL_CERT_FILE)",
        )
        return False
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
            findings.fail(
                _PART, f"{target.address} does not speak TLS", f"use --address {target.address}, without https://"
            )
        else:
            findings.fail(
                _PART, f"no TLS with {target.address}: {error.reason}", "see the gateway's log and gateway.tls"
            )
        return False
    except OSError as error:  # a TimeoutError is one, without a number
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error) or "no answer"
        findings.fail(
            _PART,
            f"nothing answers at {target.address} ({target.origin}): {why}",
            "start a mesh with `sluice up`, or say where it is with --address or SLUICE_ADDRESS",
        )
        return False
    took = (time.perf_counter() - began) * 1000
    findings.ok(_PART, f"listens at {target.address} ({target.origin}), {took:.0f} ms away")
    if certificate:
        _judge(certificate, findings)
    return True


def _verifying() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    return context


async def speaks_tls(target: Target) -> bool:
    """Whether a listener speaks TLS, whatever its certificate is."""
    context = _verifying()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent; the question is whether it answers at all
    try:
        await _connect(target, context)
    except OSError:
        return False
    return True


async def _connect(target: Target, context: ssl.SSLContext | None) -> Mapping[str, object]:
    """Connects and hangs up. Returns what the certificate says, if there is one and it was verified."""
    address = target.address
    async with asyncio.timeout(_SECONDS):
        if address.startswith("unix:"):
            _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:").removeprefix("//"))
        else:
            host, _, port = address.rpartition(":")
            if not port.isdigit():
                raise OSError("expected host:port")
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=context)
    certificate: Mapping[str, object] = writer.get_extra_info("peercert") or {}
    writer.transport.abort()
    return certificate


def _judge(certificate: Mapping[str, object], findings: Findings) -> None:
    days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86400
    if days < _SOON_DAYS:
        findings.warn(
            _PART, f"its certificate ends in {days:.0f} days", "renew it; the gateway takes new files by itself"
        )
    else:
        findings.ok(_PART, f"its certificate is accepted, for {days:.0f} days more")


def look_for_proxies(target: Target, environ: Mapping[str, str], findings: Findings) -> None:
    """Looks for a proxy that clients in other languages would take. Ours takes none."""
    found = next(
        (name for name in ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY") if environ.get(name)), None
    )
    if found is None or target.address.startswith("unix:"):
        return
    host = target.address.rpartition(":")[0].strip("[]")
    exempt = [one.strip().lstrip(".") for one in (environ.get("no_proxy") or environ.get("NO_PROXY") or "").split(",")]
    if not any(one and (one == "*" or host == one or host.endswith(f".{one}")) for one in exempt):
        findings.warn(
            "proxy", f"{found} is set, and grpc in other programs takes it for {host}", f"add {host} to no_proxy"
        )
