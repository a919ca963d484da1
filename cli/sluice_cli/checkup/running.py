"""What a running mesh says of itself, through its gateway."""

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sluice.error.v1.error_reason_pb2 import ErrorReason as R
from sluice.gateway.v1.integration_service_pb2 import HealthState, Integration
from sluice.gateway.v1.model_service_pb2 import ListRoutesResponse
from sluice.retrieval.v1.search_service_pb2 import SearchMode
from sluice_cli.checkup.door import speaks_tls
from sluice_cli.checkup.findings import Findings
from sluice_cli.mesh import Target
from sluice_client import question
from sluice_kit.channels import CHANNEL_OPTIONS
from sluice_kit.errors import SluiceError
from sluice_kit.health import READINESS
from sluice_kit.roles import ROLES

if TYPE_CHECKING:
    from sluice_client import SluiceClient

_SLOW_PROBE_SECONDS: Final = 2.0
_SKEW_SECONDS: Final = 5.0
_CHECK_SECONDS: Final = 5.0
_ASK_SECONDS: Final = 60.0
_OLD_DAYS: Final = 90

_SERVERS: Final = {
    "records": "is Postgres up, and may the gateway reach it? See gateway.records.url and the gateway's log",
    "response log": "is Redis up, and may the gateway reach it? See gateway.log.redis.url and the gateway's log",
}
"""What to look at for what a gateway needs, by its name in health."""


_SHUT: Final = ("it takes no calls", "it starts or stops: wait, or see its log")


async def _is_shut(target: Target) -> bool:
    """Whether a gateway says that it takes no calls: while it starts or drains. The client's channel only turns away."""
    options = [*{**dict(CHANNEL_OPTIONS), "grpc.service_config": "{}"}.items()]
    if target.tls:
        channel = grpc.aio.secure_channel(target.address, grpc.ssl_channel_credentials(), options=options)
    else:
        channel = grpc.aio.insecure_channel(target.address, options=options)
    async with channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_CHECK_SECONDS)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.NOT_SERVING)


def _why_unreachable(said: str) -> str:
    """Returns what to do about a service that the gateway cannot reach. `said` says whether TLS is why."""
    if "TLS" in said:
        return "compare its certificate, key and CA with the gateway's: `sluice certs show`; see both logs"
    return "is it running, and at the address that the gateway has? See its log"


class Patient:
    """A mesh under examination."""

    def __init__(self, client: "SluiceClient", target: Target, findings: Findings) -> None:
        self._client = client
        self._target = target
        self._findings = findings

    async def examine(self, *, ask: bool) -> None:
        """Looks at everything that the gateway can be asked."""
        if not await self._serves() or not await self._accepts_the_key():
            return
        await self._needs()
        await self._conversations()
        await self._contracts()
        integrations = await self._integrations()
        routes = await self._routes(integrations)
        await self._retrieval()
        if ask and routes is not None:
            await self._ask(routes)

    async def _serves(self) -> bool:
        stub: Any = self._client.stub(health_pb2_grpc.HealthStub)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_CHECK_SECONDS)
        except grpc.aio.AioRpcError as error:
            if not self._target.tls and await speaks_tls(self._target):
                said, todo = f"{self._target.address} speaks TLS", f"use --address https://{self._target.address}"
            elif await _is_shut(self._target):
                said, todo = _SHUT
            elif error.code() == grpc.StatusCode.UNIMPLEMENTED:
                said, todo = f"what listens at {self._target.address} is no gateway", "look for the port of the gateway"
            else:
                said, todo = f"it does not answer grpc ({error.code().name})", "is it a gateway of Sluice? See its log"
            self._findings.fail("gateway", said, todo)
            return False
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            self._findings.fail("gateway", *_SHUT)
            return False
        self._findings.ok("gateway", "serves")
        return True

    async def _needs(self) -> None:
        """Names what the gateway needs and does not get: it says by health which that is."""
        stub: Any = self._client.stub(health_pb2_grpc.HealthStub)
        for need, todo in _SERVERS.items():
            request = health_pb2.HealthCheckRequest(service=f"{READINESS}/{need}")
            try:
                answer = await stub.Check(request, timeout=_CHECK_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:  # that is kept on no server, or by an older gateway
                    said = f"whether its {need} can be used cannot be asked ({error.code().name})"
                    self._findings.warn("gateway", said, "see its log")
            else:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    self._findings.ok("gateway", f"its {need} can be used")
                else:
                    self._findings.fail("gateway", f"its {need} cannot be used, so it takes no new requests", todo)

    async def _conversations(self) -> None:
        try:
            async for _ in self._client.list_conversations(page_size=1):
                break
        except SluiceError as error:
            todo = "is their database up, and its disk in order? See gateway.conversations.url and the gateway's log"
            self._findings.fail("conversations", error.message, todo)

    async def _accepts_the_key(self) -> bool:
        try:
            await self._client.list_routes()
        except SluiceError as error:
            if error.reason == R.ERROR_REASON_UNSUPPORTED_OPERATION:
                # An adapter's address, say, or the gateway's own for health.
                said = f"what listens at {self._target.address} is no gateway's door, though it answers health"
                self._findings.fail("gateway", said, "use the address of gateway.listen")
            elif error.reason == R.ERROR_REASON_UNAUTHENTICATED:
                self._findings.fail("key", error.message, "set SLUICE_API_KEY; `sluice keys new` makes keys")
            elif error.reason == R.ERROR_REASON_PERMISSION_DENIED:
                self._findings.fail("key", error.message, "ask for a key with that role")
            else:
                self._findings.fail("gateway", error.message, f"see {error.reason_name} in docs/errors.md")
            return False
        self._findings.ok("key", "accepted" if self._target.key else "none is asked for")
        return True

    async def _contracts(self) -> None:
        """Compares the services of both sides: a command and a mesh of different releases."""
        stub: Any = self._client.stub(cast("Any", reflection_pb2_grpc.ServerReflectionStub))
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        names: set[str] = set()
        try:
            async for answer in stub.ServerReflectionInfo(iter([request]), timeout=_CHECK_SECONDS):
                names = {one.name for one in answer.list_services_response.service}
                break
        except grpc.aio.AioRpcError:
            return  # the operator has switched it off
        known = {path[1:].partition("/")[0] for path in ROLES if path.startswith("/sluice.gateway.")}
        here = {name for name in names if name.startswith("sluice.gateway.")}
        if missing := sorted(known - here):
            said, todo = f"the mesh is older than this command: it has no {', '.join(missing)}", "upgrade the mesh"
        elif more := sorted(here - known):
            said, todo = f"the mesh is newer than this command: it has {', '.join(more)}", "upgrade the command"
        else:
            self._findings.ok("versions", "command and mesh have the same services")
            return
        self._findings.warn("versions", said, todo)

    async def _integrations(self) -> list[Integration]:
        try:
            integrations = await self._client.list_integrations().all()
        except SluiceError as error:
            self._findings.fail("integrations", error.message, "see the gateway's log")
            return []
        if not integrations:
            self._findings.fail("integrations", "there are none, so no model", "configure one under `providers`")
        healths = await asyncio.gather(
            *(self._client.integration_health(one.id) for one in integrations), return_exceptions=True
        )
        now = time.time()
        skew = 0.0
        for one, health in zip(integrations, healths, strict=True):
            if isinstance(health, SluiceError):
                self._findings.fail(one.id, health.message, "see the gateway's log")
            elif isinstance(health, BaseException):
                raise health
            else:
                one.health.CopyFrom(health)
                self._judge(one)
                if health.HasField("probe_time"):
                    apart = health.probe_time.ToNanoseconds() / 1e9 - now
                    skew = apart if not skew or abs(apart) < abs(skew) else skew
        if abs(skew) > _SKEW_SECONDS:
            where = "ahead" if skew > 0 else "behind"
            self._findings.warn(
                "clock",
                f"the gateway's is {abs(skew):.0f} s {where} of this machine's",
                "set both by NTP: deadlines suffer",
            )
        elif integrations:
            self._findings.ok("clock", "the gateway's agrees with this machine's")
        return integrations

    def _judge(self, one: Integration) -> None:
        health = one.health
        if health.missing_settings:
            names = ", ".join(health.missing_settings)
            self._findings.warn(one.id, f"not configured: {names} not set", f"set {names} and restart the mesh")
        elif health.state == HealthState.HEALTH_STATE_UNREACHABLE:
            self._findings.fail(one.id, health.detail or "its service does not answer", _why_unreachable(health.detail))
        elif health.state != HealthState.HEALTH_STATE_AVAILABLE:
            self._findings.fail(
                one.id, health.detail or "not available", f"see {R.Name(health.reason)} in docs/errors.md"
            )
        elif (seconds := health.latency.ToNanoseconds() / 1e9) > _SLOW_PROBE_SECONDS:
            self._findings.warn(one.id, f"its probe took {seconds:.1f} s", "the vendor or the way to it is slow")
        else:
            self._findings.ok(one.id, f"available, probe {seconds * 1000:.0f} ms")

    async def _routes(self, integrations: list[Integration]) -> ListRoutesResponse | None:
        try:
            routes = await self._client.list_routes()
        except SluiceError as error:
            self._findings.fail("routes", error.message, "see the gateway's log")
            return None
        by_id = {one.id: one.health.state for one in integrations}
        models = await self._models()
        for route in routes.routes:
            part = f"route {route.alias}"
            unknown = sorted({target.provider for target in route.targets if target.provider not in by_id})
            usable = [one for one in route.targets if by_id.get(one.provider) == HealthState.HEALTH_STATE_AVAILABLE]
            names = ", ".join(f"{target.provider}/{target.model}" for target in route.targets)
            if unknown:
                todo = f"configure {', '.join(unknown)} under `providers`, or take its targets out of the route"
                self._findings.fail(part, f"no such integration: {', '.join(unknown)}", todo)
            elif not usable:
                self._findings.fail(part, f"none of its targets is available: {names}", "see the integrations above")
            else:
                self._findings.ok(part, names)
            for target in usable:
                if models.get(target.provider) and target.model not in models[target.provider]:
                    said = f"{target.provider} does not list the model {target.model}"
                    self._findings.warn(part, said, f"is it written as `sluice models {target.provider}` has it?")
        if not routes.default_alias:
            self._findings.warn(
                "route default", "there is none, so requests have to name a model", "set gateway.routes.default"
            )
        return routes

    async def _models(self) -> dict[str, set[str]]:
        """Returns the models that each integration lists. Where models are scripts, any name is one."""
        found: dict[str, set[str]] = {}
        try:
            async for one in self._client.list_models():
                if not one.name.startswith("scripted/"):
                    found.setdefault(one.integration, set()).add(one.model.id)
        except SluiceError as error:
            self._findings.warn("models", error.message, "see the integrations above")
        return found

    async def _retrieval(self) -> None:
        try:
            corpora = await self._client.list_corpora().all()
        except SluiceError as error:
            if error.metadata.get("configured") == "false":
                todo = "set gateway.retrieval.address if answers are to be grounded"
                self._findings.warn("retrieval", error.message, todo)
            elif error.reason == R.ERROR_REASON_SERVICE_UNREACHABLE:
                self._findings.fail("retrieval", error.message, _why_unreachable(error.message))
            elif error.reason == R.ERROR_REASON_STORE_UNAVAILABLE:
                self._findings.fail(
                    "retrieval", error.message, "is the server of retrieval.records.url up? See its log"
                )
            else:
                self._findings.fail("retrieval", error.message, f"see {error.reason_name} in docs/errors.md")
            return
        self._findings.ok("retrieval", f"answers, {len(corpora)} corpora")
        await self._search([corpus.name for corpus in corpora if corpus.HasField("index_time")])
        for corpus in corpora:
            short = corpus.name.removeprefix("corpora/")
            again = f"`sluice index PATH_OR_URL --name {short}`"
            if not corpus.HasField("index_time"):
                self._findings.warn(corpus.name, "was never indexed, so it cannot be searched", f"index it: {again}")
                continue
            days = (time.time() - corpus.index_time.ToNanoseconds() / 1e9) / 86400
            if days > _OLD_DAYS:
                self._findings.warn(corpus.name, f"was indexed {days:.0f} days ago", f"index it anew: {again}")

    async def _search(self, corpora: list[str]) -> None:
        """Searches one corpus by words, which costs nothing: vectors may lie on a server that is away."""
        if not corpora:
            return
        try:
            await self._client.search("health", corpora[:1], top_k=1, mode=SearchMode.SEARCH_MODE_SPARSE)
        except SluiceError as error:
            todo = f"see {error.reason_name} in docs/errors.md, and retrieval's log"
            if error.reason == R.ERROR_REASON_STORE_UNAVAILABLE:
                todo = "is the server of retrieval.store up? See retrieval's log"
            self._findings.fail("search", f"{corpora[0]} cannot be searched: {error.message}", todo)
        else:
            self._findings.ok("search", f"{corpora[0]} can be searched")

    async def _ask(self, routes: ListRoutesResponse) -> None:
        part = f"route {routes.default_alias or 'default'}"
        spec = question("Answer with the word: yes")
        spec.parameters.max_output_tokens = 16
        spec.lenient = True
        began = time.perf_counter()
        try:
            answer = await self._client.chat(spec, timeout=_ASK_SECONDS)
        except SluiceError as error:
            todo = (
                "set gateway.routes.default"
                if not routes.default_alias
                else f"see {error.reason_name} in docs/errors.md"
            )
            self._findings.fail(part, f"does not answer: {error.message}", todo)
            return
        took = time.perf_counter() - began
        words = len(answer.text.split())
        self._findings.ok(part, f"answers, {words} words in {took:.1f} s")
