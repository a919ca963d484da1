"""The way to Amazon Web Services: credentials, signatures, and clients of the SDK, which blocks and so runs in threads.

Credentials come from the settings, or else from botocore's own chain: the AWS_* variables, the shared files and their
profiles (roles, SSO, `credential_process`), and the role of the container or the machine. That chain reads the
environment by itself, which is its point: it is how every program on the machine finds the same credentials. A part of
it asks addresses of the network, so it runs beside the start of the service and never holds it up.
"""

import asyncio
import importlib
import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError, make_error
from sluice_kit.secrets import Secret
from sluice_providers.failures import protocol_error
from sluice_providers.http import HttpSettings

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_MANDATORY_SECONDS: Final = 600
"""So long before its end a credential is not used any more without a try to renew it; botocore's own limit."""
_AGAIN_SECONDS: Final = 60.0
"""So long after a search that found nothing, the next may begin."""
_REGION: Final = re.compile(r"[a-z0-9-]+")
_LONG_BYTES: Final = 1024 * 1024
"""From this size on a body takes long enough to hash that others would notice."""
_CHATTY: Final = ("boto3", "botocore", "urllib3")

Service = Literal["bedrock", "bedrock-runtime", "bedrock-agent-runtime"]


class AwsSettings(HttpSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of every adapter in front of AWS."""

    region: str = ""
    """Region, e.g. `eu-central-1`. Empty: the one of AWS_DEFAULT_REGION or of the profile."""
    profile: str = ""
    """Profile of the shared files of AWS. Empty: AWS_PROFILE, or `default`."""
    access_key_id: Secret = Secret("")
    """Access key. Empty text: credentials are found by the chain, which begins with the variables."""
    secret_access_key: Secret = Secret("")
    """What belongs to the access key."""
    session_token: Secret = Secret("")
    """What belongs to a temporary access key."""
    credential_chain: bool = True
    """Whether credentials are looked for where the settings have none. False: a role of the machine is never used by
    accident."""


class NoCredentials(Exception):
    """There are none. The status of the integration says what to set."""


class BadCredentials(Exception):
    """There are some, and they could not be renewed."""


class Aws:
    """Access to AWS with the credentials of one integration."""

    def __init__(self, settings: AwsSettings, threads: int) -> None:
        self._settings = settings
        # Threads of our own: the loop's are few, and names are looked up in them, which must not wait for calls here.
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="aws")
        self._session: Any = None
        self._profile_found = True
        self._credentials: Any = None
        self._frozen: Any = None  # what the last request was signed with
        self._search: asyncio.Task[None] | None = None
        self._lacking = ""  # what the chain found no more than a part of
        self._searched_at = 0.0
        self._renewal: asyncio.Task[None] | None = None
        self._clients: dict[Service, asyncio.Task[Any]] = {}
        self.region = settings.region
        self.partition, self._suffix = "aws", "amazonaws.com"

    async def start(self) -> None:
        """Loads the SDK and reads its files. Raises ModuleNotFoundError if it is not installed."""
        await self.run(self._open)
        self._look()

    async def close(self) -> None:
        """Gives up what runs. Threads end by the limits of time of their calls."""
        tasks: list[asyncio.Task[Any] | None] = [self._search, self._renewal, *self._clients.values()]
        for task in tasks:
            if task is not None and not task.done():
                task.cancel()
        for made in self._clients.values():
            if made.done() and not made.cancelled() and made.exception() is None:
                made.result().close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, function: Callable[[], _T]) -> _T:
        """Calls a function that blocks, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    @property
    def has_keys(self) -> bool:
        """Whether the settings hold an access key."""
        return bool(_text(self._settings.access_key_id))

    @property
    def bearer(self) -> str:
        """The API key of the service, which stands for credentials; empty where there is none."""
        return _text(self._settings.api_key)

    def missing(self, bearer_variable: str) -> tuple[str, ...]:
        """Returns what the operator must set, by name. While the chain is still at work, nothing is known to miss."""
        settings = self._settings
        for secret in (settings.api_key, settings.access_key_id, settings.secret_access_key, settings.session_token):
            if secret.missing:
                return (secret.missing,)
        names = []
        if not self._profile_found:
            names.append(f"AWS_PROFILE (there is no profile {settings.profile or 'of the name it holds'})")
        elif not self.region:
            names.append("AWS_REGION")
        elif not _REGION.fullmatch(self.region):
            names.append("AWS_REGION (what it holds is no name of a region)")
        if self.bearer:
            return tuple(names)
        if self.has_keys:
            return (*names, "AWS_SECRET_ACCESS_KEY") if self._credentials is None else tuple(names)
        if not settings.credential_chain:
            return (*names, f"AWS_ACCESS_KEY_ID or {bearer_variable}")
        self._look()
        if self._profile_found and self._credentials is None and self._search is not None and self._search.done():
            names.append(self._lacking or f"AWS_ACCESS_KEY_ID or AWS_PROFILE or {bearer_variable}")
        return tuple(names)

    def _open(self) -> None:
        for name in _CHATTY:
            # They write requests down, with prompts and tokens in them; their news reaches us as exceptions.
            logger = logging.getLogger(name)
            logger.setLevel(max(logging.ERROR, logger.level))
        errors = importlib.import_module("botocore.exceptions")
        core = importlib.import_module("botocore.session").Session()
        settings = self._settings
        given: dict[str, Any] = {"region_name": settings.region or None, "profile_name": settings.profile or None}
        if self.has_keys and _text(settings.secret_access_key):
            given["aws_access_key_id"] = _text(settings.access_key_id)
            given["aws_secret_access_key"] = _text(settings.secret_access_key)
            given["aws_session_token"] = _text(settings.session_token) or None
        try:
            session = importlib.import_module("boto3.session").Session(botocore_session=core, **given)
            self.region = session.region_name or ""
            if "aws_access_key_id" in given:
                self._credentials = session.get_credentials()  # those given: nothing is looked for
        except errors.ProfileNotFound:
            self._profile_found = False
            return
        self._session = session
        rows = core.get_component("data_loader").load_data("partitions")["partitions"]
        for row in rows:
            if self.region in row["regions"] or re.match(row["regionRegex"], self.region):
                self.partition, self._suffix = row["id"], row["outputs"]["dnsSuffix"]
                break

    def address(self, service: Service) -> str:
        """Returns where a service is in the region."""
        return f"https://{service}.{self.region}.{self._suffix}"

    def _look(self) -> None:
        """Lets the chain look for credentials, unless it does, or did a moment ago."""
        if self.bearer or self.has_keys or not self._settings.credential_chain or self._session is None:
            return
        now = asyncio.get_running_loop().time()
        idle = self._search is None or (self._search.done() and now - self._searched_at > _AGAIN_SECONDS)
        if idle and self._credentials is None:
            self._search = asyncio.create_task(self._find())

    async def _find(self) -> None:
        errors = importlib.import_module("botocore.exceptions")
        self._lacking = ""
        try:
            self._credentials = await self.run(self._session.get_credentials)
        except errors.PartialCredentialsError as error:
            self._lacking = str(error.kwargs.get("cred_var", "")).upper()
        except Exception as error:  # noqa: BLE001 - whatever fails on this way, of any service asked, means the same
            log.warning("no credentials of AWS were found", extra={"exception_type": type(error).__qualname__})
        finally:
            self._searched_at = asyncio.get_running_loop().time()

    async def credentials(self) -> Any:
        """Returns credentials that are good now, renewed in a thread if need be. Raises NoCredentials.

        However many requests wait, one renewal runs. While the ones at hand are still good, nobody waits for it.
        """
        if self._credentials is None and self._search is not None:
            await asyncio.shield(self._search)
        held = self._credentials
        if held is None:
            raise NoCredentials
        ages = hasattr(held, "refresh_needed")
        if self._frozen is None or (ages and held.refresh_needed()):
            if self._renewal is None or self._renewal.done():
                self._renewal = asyncio.create_task(self._renew())
                self._renewal.add_done_callback(_seen)
            if self._frozen is None or held.refresh_needed(_MANDATORY_SECONDS):
                await asyncio.shield(self._renewal)
        return self._frozen

    async def _renew(self) -> None:
        try:
            self._frozen = await self.run(self._credentials.get_frozen_credentials)
        except Exception:  # noqa: BLE001 - whatever fails on this way, of any service asked, means the same
            raise BadCredentials from None

    async def headers(self, url: str, body: bytes, headers: Mapping[str, str], signing_name: str) -> dict[str, str]:
        """Returns the headers of a POST with those that authenticate it: an API key, or a signature over all of it.

        `url` is signed as it is, so it must be written as it will be sent. Raises NoCredentials.
        """
        if self.bearer:
            return {**headers, "Authorization": f"Bearer {self.bearer}"}
        credentials = await self.credentials()

        def sign() -> dict[str, str]:
            auth = importlib.import_module("botocore.auth")
            request = importlib.import_module("botocore.awsrequest").AWSRequest("POST", url, dict(headers), body)
            auth.SigV4Auth(credentials, signing_name, self.region).add_auth(request)
            return dict(request.headers.items())

        return sign() if len(body) < _LONG_BYTES else await self.run(sign)

    async def client(self, service: Service, url: str) -> Any:
        """Returns a client of the SDK, made once. `url` is its address; empty: the one of the region.

        Raises NoCredentials.
        """
        made = self._clients.get(service)
        if made is None or (made.done() and (made.cancelled() or made.exception() is not None)):
            made = self._clients[service] = asyncio.create_task(self._make(service, url))
            made.add_done_callback(_seen)
        return await asyncio.shield(made)

    async def _make(self, service: Service, url: str) -> Any:
        if not self.bearer:
            await self.credentials()  # or making the client would look for them
        return await self.run(lambda: self._client(service, url))

    def _client(self, service: Service, url: str) -> Any:
        botocore = importlib.import_module("botocore")
        settings = self._settings
        proxy = settings.proxy.reveal() if settings.proxy else None
        config = importlib.import_module("botocore.config").Config(
            # Said here, or a key of the environment would be preferred to the credentials.
            signature_version=botocore.UNSIGNED if self.bearer else "v4",
            retries={"total_max_attempts": 1},
            connect_timeout=settings.connect_seconds,
            read_timeout=settings.call_seconds,
            proxies={"http": proxy, "https": proxy} if proxy else {},  # none at all would be the environment's
            ignore_configured_endpoint_urls=True,
            max_pool_connections=64,
        )
        client = self._session.client(
            service,
            region_name=self.region,
            endpoint_url=url or self.address(service),
            verify=settings.ca_file or True,
            config=config,
        )
        client.meta.events.register("before-call", self._add_headers)
        return client

    def _add_headers(self, params: dict[str, Any], **_: Any) -> None:
        """Adds what every request of the integration carries."""
        params["headers"].update(self._settings.headers)
        if self.bearer:
            params["headers"]["Authorization"] = f"Bearer {self.bearer}"


def _text(secret: Secret) -> str:
    """Returns a secret; nothing where it is empty or missing."""
    return secret.reveal() if secret else ""


def _seen(task: "asyncio.Task[Any]") -> None:
    """Looks at what a shared task raised: those who waited for it may all be gone."""
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a service said that refused a call of the SDK."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]
    """Its type and message, named as in a reply."""


def refusal_of(error: Exception) -> Refusal | None:
    """Returns what an exception of the SDK says that a service refused a call; None if it is none of those."""
    if not isinstance(error, importlib.import_module("botocore.exceptions").ClientError):
        return None
    response: dict[str, Any] = getattr(error, "response", {})
    told = response.get("Error", {})
    about = response.get("ResponseMetadata", {})
    body = {"__type": str(told.get("Code", "")), "message": str(told.get("Message", ""))}
    if "originalStatusCode" in response:
        body["originalStatusCode"] = response["originalStatusCode"]
    return Refusal(about.get("HTTPStatusCode", 500), about.get("HTTPHeaders", {}), body)


def sdk_failure(error: Exception, integration: str) -> SluiceError | None:
    """Returns what another exception of the SDK means; None if it is none."""
    errors = importlib.import_module("botocore.exceptions")
    if isinstance(error, errors.ConnectTimeoutError | errors.ReadTimeoutError):
        reason, what = ErrorReason.ERROR_REASON_UPSTREAM_TIMEOUT, f"{integration} did not answer in time"
    elif isinstance(error, errors.ParamValidationError):
        reason, what = (
            ErrorReason.ERROR_REASON_UPSTREAM_INVALID_ARGUMENT,
            f"the request is not one that {integration} takes",
        )
    elif isinstance(error, errors.SSLError):
        reason, what = (
            ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE,
            f"no secure connection to {integration}: its certificate or protocol was not accepted",
        )
    elif isinstance(error, errors.HTTPClientError | errors.ConnectionError):
        reason, what = ErrorReason.ERROR_REASON_UPSTREAM_UNAVAILABLE, f"{integration} cannot be reached"
    elif isinstance(error, errors.BotoCoreError):
        # Of what is left, a reply that cannot be read is all that a vendor can cause.
        return protocol_error(integration, "a reply is not what its format promises")
    else:
        return None
    return make_error(reason, what, metadata={"provider": integration})
