"""Failures for people: what happened, and what to do next."""

from typing import TYPE_CHECKING, Any

from sluice.error.v1.error_reason_pb2 import ErrorReason as R
from sluice_cli import output
from sluice_kit.errors import SluiceError

if TYPE_CHECKING:
    from sluice_cli.mesh import Target
    from sluice_client import SluiceClient


async def report(error: SluiceError, client: "SluiceClient", target: "Target", *, as_json: bool) -> None:
    """Says on standard error what failed and what to do; with `as_json` also as one line on standard output."""
    hints = await _hints(error, client)
    output.say(f"sluice: {_headline(error, target)}")
    for violation in error.violations[1:]:
        output.say(f"  {violation.field}: {violation.description}")
    for hint in hints:
        output.say(f"  → {hint}")
    if as_json:
        output.emit({"error": described(error)})


def described(error: SluiceError) -> dict[str, Any]:
    """Returns an error as JSON: reason, message, whether it is worth trying again, and what else is known."""
    result: dict[str, Any] = {
        "reason": error.reason_name,
        "code": error.code.name,
        "message": error.message,
        "retryable": error.retryable,
    }
    if error.metadata:
        result["metadata"] = error.metadata
    if error.retry_after is not None:
        result["retryAfterSeconds"] = error.retry_after
    return result


def _headline(error: SluiceError, target: "Target") -> str:
    if _gateway_is_away(error):
        return f"no mesh answers at {target.address} ({target.origin})"
    return error.message


def _gateway_is_away(error: SluiceError) -> bool:
    return error.reason == R.ERROR_REASON_SERVICE_UNREACHABLE and error.metadata.get("service") == "gateway"


async def _hints(error: SluiceError, client: "SluiceClient") -> list[str]:
    if _gateway_is_away(error):
        return ["start one with `sluice up`, or say where it is with --address or SLUICE_ADDRESS"]
    hints: list[str] = []
    match error.reason:
        case R.ERROR_REASON_UNAUTHENTICATED:
            hints.append("set SLUICE_API_KEY (an operator makes keys with `sluice keys new`)")
        case R.ERROR_REASON_PERMISSION_DENIED:
            role = error.metadata.get("role")
            hints.append(f"ask for a key with the role {role}" if role else "ask the operator of the mesh")
        case R.ERROR_REASON_MODEL_NOT_FOUND:
            hints.append("see what there is: `sluice models`, `sluice routes`")
        case R.ERROR_REASON_NOT_FOUND if _corpus_of(error) is not None:
            hints.append(await _corpora(client))
        case R.ERROR_REASON_CORPUS_NOT_READY:
            name = (_corpus_of(error) or "corpora/NAME").removeprefix("corpora/")
            hints.append(f"index something into it first: `sluice index PATH_OR_URL --name {name}`")
        case R.ERROR_REASON_CORPUS_BUSY:
            task = error.metadata.get("task", "")
            hints.append(f"another task indexes it; watch it with `sluice tasks watch {task}`".rstrip())
        case R.ERROR_REASON_INTEGRATION_MISCONFIGURED | R.ERROR_REASON_UPSTREAM_AUTHENTICATION:
            hints.append("see what is missing by name: `sluice status`; then set it and restart the mesh")
        case R.ERROR_REASON_GROUNDING_UNAVAILABLE | R.ERROR_REASON_SERVICE_UNREACHABLE:
            hints.append("see which service is down: `sluice status`")
        case R.ERROR_REASON_SOURCE_NOT_ALLOWED:
            hints.append(_allow(error.metadata.get("rule", "")))
        case R.ERROR_REASON_RESPONSE_LOST:
            hints.append("the mesh was restarted meanwhile: ask again")
        case R.ERROR_REASON_CONTEXT_TOO_LONG:
            hints.append("ask for less: fewer passages (--top-k), a shorter question, or another --model")
        case R.ERROR_REASON_UNSUPPORTED_OPTION:
            hints.append("leave the option out, or choose a model that knows it: `sluice models`")
        case R.ERROR_REASON_INTERNAL:
            hints.append("this is a defect; the logs of the service have the details")
    if error.retry_after is not None:
        hints.append(f"try again in {error.retry_after:g} s")
    if error.help_url:
        hints.append(error.help_url)
    return hints


def _allow(rule: str) -> str:
    if rule == "allowed_roots":
        return (
            "run `sluice up` in a folder above it, or allow it: "
            "`sluice up --set 'retrieval.allowed_roots=[\"/the/folder\"]'`"
        )
    setting = "private_hosts" if rule == "public_addresses" else "allowed_hosts"
    return f"the operator allows hosts by `retrieval.git.{setting}` in sluice.yaml"


def _corpus_of(error: SluiceError) -> str | None:
    for value in error.metadata.values():
        if value.startswith("corpora/"):
            return value
    return None


async def _corpora(client: "SluiceClient") -> str:
    try:
        names = [corpus.name.removeprefix("corpora/") async for corpus in client.list_corpora()]
    except SluiceError:
        return "see what there is: `sluice corpora list`"  # a hint is not worth a second failure
    if not names:
        return "there is none yet: `sluice index PATH_OR_URL --name NAME`"
    return f"there are: {', '.join(names)}; `sluice index PATH_OR_URL --name NAME` makes another"
