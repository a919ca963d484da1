"""`copilot`: the models of a GitHub Copilot subscription.

A person signs in once, by the device flow (`sluice login copilot`). The GitHub token that this yields is kept in a file
and goes to GitHub alone, which gives a Copilot token for it that is good for half an hour, and says where to use that.

Neither the exchange of tokens nor the interface behind it is documented by GitHub; both are used alike by the open
plugins of editors. The public client id of this flow is theirs, too: it stands in the sources of copilot.vim and
CopilotChat.nvim. `client_id` sets another, e.g. of an OAuth app of your own organization.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar

import aiohttp
import msgspec

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.provider.v1 import model_pb2
from sluice.provider.v1 import provider_service_pb2 as pb
from sluice.provider.v1.sign_in_pb2 import SignInChallenge
from sluice_kit.errors import Reason, SluiceError
from sluice_kit.secrets import Secret
from sluice_providers.adapters.openai import OpenAIAdapter, OpenAISettings
from sluice_providers.base import Emitter
from sluice_providers.exchange import Framing, HttpAdapter, ReplyReader
from sluice_providers.failures import protocol_error
from sluice_providers.http import JSON, Reply
from sluice_providers.signin.device import DeviceFlow, is_safe_address
from sluice_providers.signin.lease import Lease, Leases
from sluice_providers.signin.token_file import Credential, TokenFile, TokenFileError
from sluice_providers.wire import copilot as wire
from sluice_providers.wire.chat_stream import ChatStream
from sluice_providers.wire.chat_vectors import add_vectors

log = logging.getLogger(__name__)
P = TypeVar("P")
_R = ErrorReason

GITHUB: Final = "github.com"
CLIENT_ID: Final = "Iv1.b507a08c87ecfe98"
_API: Final = "https://api.githubcopilot.com"
_VERSION: Final = metadata.version("sluice-providers")
_GITHUB_TOKENS: Final = ("gho_", "ghu_", "ghp_", "ghs_", "github_pat_")
"""How tokens of GitHub begin."""
_GRACE_SECONDS: Final = 60.0
"""A Copilot token outlives `refresh_in` by about this much; the vendor's own clients count on it, not on clocks."""
_MAX_ACCOUNT_CHARS: Final = 64


class CopilotSettings(OpenAISettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the `copilot` adapter."""

    base_url: str = ""
    """Where Copilot's interface starts. Empty: where GitHub's reply to the exchange of tokens says."""
    api_key: Secret = Secret("")
    """A token instead of a sign-in: GitHub's (`gho_…`, `ghu_…`, `github_pat_…`), which is exchanged, or any other, which
    is sent as it is. Empty or missing: the one that a sign-in left."""
    github_host: str = GITHUB
    """Where accounts live: `github.com`, or the host of an enterprise with data residency, e.g. `acme.ghe.com`."""
    client_id: str = CLIENT_ID
    """The OAuth app that asks for consent. It must be one that GitHub lets use Copilot."""
    scope: str = "read:user"
    """What consent is asked for."""
    token_file: str | None = None
    """Where the GitHub token is kept. Unset: `providers/<integration>/token.json` in the state folder."""
    integration_id: str = "vscode-chat"
    """`Copilot-Integration-Id`: the interface refuses those that it does not know."""
    editor_version: str = ""
    """`Editor-Version` and `User-Agent`, a name and a version. Empty: `Sluice/` and our version."""
    plugin_version: str = ""
    """`Editor-Plugin-Version`, in the same form. Empty: `sluice/` and our version."""
    intent: str = "conversation-panel"
    """`Openai-Intent`: what the answers are for."""
    hidden_models: bool = False
    """Whether models are listed that GitHub keeps out of its own pickers."""
    unsupported: tuple[str, ...] = ("files", "images.uri")
    """Names of request options that the interface does not honour: they are refused by name."""

    def resolved(self, resolve: Callable[[str], Path]) -> Self:
        """Returns the same settings with absolute paths."""
        settings = super().resolved(resolve)
        if settings.token_file is None:
            return settings
        return msgspec.structs.replace(settings, token_file=str(resolve(settings.token_file)))

    def kept_in(self, folder: Callable[[], Path]) -> Self:
        """Returns the same settings with the place of the token."""
        if self.token_file is not None:
            return self
        return msgspec.structs.replace(self, token_file=str(folder() / "token.json"))


class CopilotAdapter(OpenAIAdapter):
    """The OpenAI format behind a sign-in at GitHub."""

    TITLE = "GitHub Copilot"
    SETUP = "Run `sluice login copilot`, or set `GITHUB_COPILOT_TOKEN`. See [the guide](guide/copilot.md)."
    Settings = CopilotSettings
    DEFAULTS: ClassVar[Mapping[str, Any]] = {"api_key": "${GITHUB_COPILOT_TOKEN}"}
    CODES: ClassVar[Mapping[str, Reason]] = {
        **OpenAIAdapter.CODES,
        "model_max_prompt_tokens_exceeded": _R.ERROR_REASON_CONTEXT_TOO_LONG,
        "model_not_supported": _R.ERROR_REASON_MODEL_NOT_FOUND,
        "unsupported_api_for_model": _R.ERROR_REASON_MODEL_NOT_FOUND,
        "quota_exceeded": _R.ERROR_REASON_UPSTREAM_QUOTA_EXHAUSTED,
        "rate_limited": _R.ERROR_REASON_UPSTREAM_RATE_LIMITED,
    }

    def __init__(self, integration: str, settings: CopilotSettings) -> None:
        host = settings.github_host.strip().rstrip("/").lower()
        self._login, self._api, fallback = _addresses(host)
        if settings.base_url and not is_safe_address(settings.base_url):
            raise ValueError("base_url must be https; http is for this machine alone")
        if settings.auth != "bearer" or settings.azure_endpoint is not None or settings.api_version:
            raise ValueError("auth, azure_endpoint and api_version are not for Copilot")
        self._fixed = bool(settings.base_url)
        super().__init__(integration, msgspec.structs.replace(settings, base_url=settings.base_url or fallback))
        self._host = host
        editor = settings.editor_version or f"Sluice/{_VERSION}"
        plugin = settings.plugin_version or f"sluice/{_VERSION}"
        self._editor = {"Editor-Version": editor, "Editor-Plugin-Version": plugin, "User-Agent": editor}
        self._file = TokenFile(Path(settings.token_file or "token.json"))
        self._leases = Leases(self._exchange_token)
        self._signing_in = False

    async def start(self) -> None:
        # No SDK: what it could do needs a token that is never older than half an hour.
        await HttpAdapter.start(self)

    async def close(self) -> None:
        await self._leases.close()
        await super().close()

    def missing(self) -> tuple[str, ...]:
        try:
            if self._key() or self._credential() is not None:
                return ()
        except TokenFileError as error:
            return (f"the token in order: {error}",)
        name = self.settings.api_key.missing or "api_key"
        return (f"{name} or run `sluice login {self.integration}`",)

    async def authorize(self, path: str, body: bytes) -> Mapping[str, str]:
        lease = await self._lease()
        speaker, images = wire.facts(path, body)
        # Where it is used belongs to the token, and every request asks for its headers first.
        self.upstream.base_url = lease.base_url
        headers = {
            **self._editor,
            "Copilot-Integration-Id": self.settings.integration_id,
            "Openai-Intent": self.settings.intent,
            "X-Initiator": speaker,
            "Content-Type": JSON,
            **self.settings.headers,
            "Authorization": f"Bearer {lease.token}",
        }
        return {**headers, "Copilot-Vision-Request": "true"} if images else headers

    async def generate(self, request: pb.GenerateRequest, emitter: Emitter) -> None:
        async with self._with_lease():
            await super().generate(request, emitter)

    async def exchange(
        self,
        path: str,
        body: Mapping[str, Any],
        request: pb.GenerateRequest,
        emitter: Emitter,
        reader_for: Callable[[Reply], ReplyReader[P]],
        framing: Framing[P],
    ) -> None:
        def read(reply: Reply) -> Any:
            reader: Any = reader_for(reply)
            return wire.CopilotStream(reader) if isinstance(reader, ChatStream) else reader

        if "messages" in body:
            wire.give_back(request, body)
        await super().exchange(path, body, request, emitter, read, framing)

    async def embed(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        response = pb.EmbedResponse(model=request.target.model)
        size = max(1, self.settings.embed_batch)
        path = self.path_of("embeddings", request.target.model)
        async with self._with_lease():
            for start in range(0, len(request.texts), size):
                texts = list(request.texts[start : start + size])
                body: dict[str, Any] = {"input": texts, "model": request.target.model}
                if request.HasField("dimensions"):
                    body["dimensions"] = request.dimensions
                data = msgspec.json.encode(body)
                headers = await self.authorize(path, data)
                async with self.upstream.post(path, data, headers, accept=JSON, model=request.target.model) as reply:
                    add_vectors(self.integration, await reply.whole(), len(texts), response)
        return response

    async def list_models(self) -> list[model_pb2.Model]:
        return wire.read_models(
            self.integration,
            await self._model_list(),
            hidden=self.settings.hidden_models,
            responses=self.settings.responses == "always",
        )

    async def _model_list(self) -> Any:
        async with self._with_lease():
            return await super()._model_list()

    async def sign_in(self, show: Callable[[SignInChallenge], Awaitable[None]]) -> str:
        """Signs in at GitHub; see Adapter.

        Raises INTEGRATION_MISCONFIGURED where a token is configured or none can be kept, TOO_MANY_IN_FLIGHT while
        another sign-in runs, UPSTREAM_PERMISSION if the person declines or has no Copilot, and what DeviceFlow raises.
        """
        settings: CopilotSettings = self.settings
        if self._key():
            raise self._misconfigured("the setting api_key holds a token already; unset it to sign in")
        if self._signing_in:
            raise self.error(
                _R.ERROR_REASON_TOO_MANY_IN_FLIGHT,
                f"somebody signs {self.integration} in just now; end that sign-in, or wait until its code expires",
            )
        self._signing_in = True
        try:
            await self._on_file(self._file.prepare)
            flow = DeviceFlow(
                integration=self.integration,
                client_id=settings.client_id,
                scope=settings.scope,
                device_url=f"{self._login}/login/device/code",
                token_url=f"{self._login}/login/oauth/access_token",
                headers=self._editor,
                proxy=settings.proxy.reveal() if settings.proxy else None,
                tls=self.upstream.tls,
            )
            return await self._keep(await flow.run(show))
        finally:
            self._signing_in = False

    async def _keep(self, token: str) -> str:
        """Keeps a token that GitHub gives a Copilot token for, and returns its account."""
        lease: Lease | None = None
        try:
            lease = await self._exchange_token(token)
        except (SluiceError, aiohttp.ClientError, TimeoutError) as error:
            if isinstance(error, SluiceError) and not error.retryable:
                raise
            # The person's consent is not in vain for that.
            log.info("no Copilot token yet", extra={"integration": self.integration, "error": type(error).__name__})
        account = await self._account(token)
        credential = Credential(token=token, host=self._host, account=account)
        await self._on_file(lambda: self._file.write(credential))
        if lease is not None:
            self._leases.put(lease)
        log.info("signed in", extra={"integration": self.integration})
        return account

    async def _account(self, token: str) -> str:
        try:
            reply = await self._ask_github("/user", token)
        except (SluiceError, aiohttp.ClientError, TimeoutError) as error:
            # A name for people, and no more.
            log.info("no name of the account", extra={"integration": self.integration, "error": type(error).__name__})
            return ""
        name = reply.get("login") if isinstance(reply, dict) else None
        return name[:_MAX_ACCOUNT_CHARS] if isinstance(name, str) and name.isascii() and name.isprintable() else ""

    async def _exchange_token(self, token: str) -> Lease:
        """Asks GitHub for a Copilot token."""
        name = self.integration
        asked_at = time.time()
        try:
            reply = await self._ask_github("/copilot_internal/v2/token", token)
        except SluiceError as error:
            if error.reason == _R.ERROR_REASON_UPSTREAM_AUTHENTICATION:
                what = f"GitHub does not accept the token of {name} any more; run `sluice login {name}`"
                raise self.error(error.reason, what) from None
            if error.reason in (_R.ERROR_REASON_UPSTREAM_PERMISSION, _R.ERROR_REASON_MODEL_NOT_FOUND):
                what = (
                    f"GitHub says that the account of {name} may not use Copilot; check its subscription and policies"
                )
                raise self.error(_R.ERROR_REASON_UPSTREAM_PERMISSION, what) from None
            raise
        grant = reply if isinstance(reply, dict) else {}
        issued, life, expires = grant.get("token"), grant.get("refresh_in"), grant.get("expires_at")
        if not (isinstance(issued, str) and issued.isascii() and issued.isprintable() and issued):
            raise protocol_error(name, "no Copilot token in GitHub's reply")
        if isinstance(life, int | float) and life > 0:
            due, until = asked_at + life, asked_at + life + _GRACE_SECONDS
        elif isinstance(expires, int | float):
            due, until = expires - _GRACE_SECONDS, float(expires)
        else:
            raise protocol_error(name, "GitHub's reply does not tell how long the Copilot token is good")
        return Lease(issued, self._place(grant.get("endpoints")), token, due, until)

    def _place(self, endpoints: Any) -> str:
        """Returns where a Copilot token is used."""
        told = endpoints.get("api") if isinstance(endpoints, dict) else None
        if self._fixed or told is None:
            return str(self.settings.base_url).rstrip("/")
        if not isinstance(told, str) or not is_safe_address(told):
            raise protocol_error(self.integration, "the address of Copilot in GitHub's reply is not https")
        return told.rstrip("/")

    async def _ask_github(self, path: str, token: str) -> Any:
        headers = {**self._editor, "Authorization": f"token {token}"}
        async with asyncio.timeout(self.settings.call_seconds):
            return await self.upstream.fetch("GET", f"{self._api}{path}", headers)

    async def _lease(self) -> Lease:
        """Returns the token to use now."""
        key = self._key()
        if key and not key.startswith(_GITHUB_TOKENS):
            # Not GitHub's: a Copilot token from elsewhere, or the key of a proxy in between.
            return Lease(key, str(self.settings.base_url).rstrip("/"), "", math.inf, math.inf)
        try:
            credential = None if key else self._credential()
        except TokenFileError as error:
            raise self._misconfigured(str(error)) from None
        source = credential.token if credential is not None else key
        if not source:
            raise self._misconfigured(f"nobody signed in; run `sluice login {self.integration}`")
        return await self._leases.get(source)

    @contextlib.asynccontextmanager
    async def _with_lease(self) -> AsyncIterator[None]:
        """Forgets the Copilot token if it is refused in the block, so that the next attempt gets another."""
        lease = await self._lease()
        try:
            yield
        except SluiceError as error:
            if error.reason == _R.ERROR_REASON_UPSTREAM_AUTHENTICATION:
                self._leases.drop(lease)
            raise

    def _key(self) -> str:
        """Returns the token of the configuration; nothing where there is none."""
        return self.settings.api_key.reveal() if self.settings.api_key else ""

    def _credential(self) -> Credential | None:
        """Returns what a sign-in at this host left. Raises TokenFileError."""
        found = self._file.read()
        return found if found is not None and found.host == self._host else None

    async def _on_file(self, work: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(work)
        except TokenFileError as error:
            raise self._misconfigured(str(error)) from None

    def _misconfigured(self, what: str) -> SluiceError:
        return self.error(_R.ERROR_REASON_INTEGRATION_MISCONFIGURED, f"{self.integration}: {what}")


def _addresses(host: str) -> tuple[str, str, str]:
    """Returns where to sign in, GitHub's interface, and Copilot's where GitHub tells none. Raises ValueError."""
    if "://" in host:
        # A server of one's own in between, or of a test.
        if not is_safe_address(host):
            raise ValueError("github_host must be a host; with a scheme https, or http on this machine")
        return host, host, host
    if not is_safe_address(f"https://{host}") or set(host) & set("/?#@:"):
        raise ValueError("github_host must be a host, e.g. github.com")
    return f"https://{host}", f"https://api.{host}", _API if host == GITHUB else f"https://copilot-api.{host}"
