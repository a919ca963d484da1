"""Section `gateway` of the configuration."""

from typing import Annotated, Any, Literal

import msgspec

from sluice_kit.secrets import Secret
from sluice_kit.tls import PublicTlsConfig

Positive = Annotated[float, msgspec.Meta(gt=0)]
PositiveInt = Annotated[int, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
CapabilityName = Literal[
    "streaming", "tools", "structured_output", "images", "reasoning", "assistant_prefill", "agent", "citations"
]  # fmt: skip  # names read better side by side
"""Names of sluice.provider.v1.Capability that an answer can need."""


class IntegrationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an adapter runs: exactly one of the two."""

    address: str | None = None
    """Address of the adapter's own process."""
    colocate: bool = False
    """Run the adapter inside the gateway's process, without a hop."""


class RetrievalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The retrieval service."""

    address: str
    """Its address."""
    wait_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """How long an answer that must be grounded waits while the service cannot be reached, as when it is restarted."""


class TimeLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long an answer may take."""

    ttft_seconds: Positive = 120.0
    """Longest wait for an attempt's first content. Reasoning models think long before they speak."""
    idle_seconds: Positive = 60.0
    """Longest silence between two batches of an attempt."""
    total_seconds: Positive = 900.0
    """Longest a response may take in all, where neither the request nor its deadline says less."""


class RoutePolicy(TimeLimits, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long an answer may take, and what is done to bring it to its end."""

    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 2
    """How often a target is tried again before the next one is."""
    cache: bool = False
    """Whether answers come from the cache and are kept there, where the request does not say."""
    midstream: Literal["fail", "restart", "continue"] = "fail"
    """What happens when an answer breaks off after its first content, where the request does not say."""
    hedge_seconds: Positive | None = None
    """When a target has sent no content for so long, the next one is asked beside it, where the request does not say.
    Unset: it is not."""
    commit_window_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """How long an attempt's content may be held, so that one that is too slow can be given up for another. Content that
    is fast enough is not held on. 0: never."""
    min_tokens_per_second: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """An attempt with less than this on average over its commit window is given up. A token is taken for 4 characters."""


class RouteConfig(RoutePolicy, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an alias leads to, how long it may take, and how it is kept going."""

    targets: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """`provider/model`."""
    order: Literal["ordered", "cheapest", "fastest"] = "ordered"
    """In which order they are tried: as they stand here; by what the request is likely to cost at the `prices`, those
    without one last; or by how long they took of late to their first content."""
    needs: tuple[CapabilityName, ...] = ()
    """What a target must be able to do. One that is known not to is passed over, unless all are."""
    prompt: str | None = None
    """Template of grounded requests, `use/version`, e.g. `grounded/v2`. Unset: that of `gateway.prompts`."""
    parameters: dict[str, Any] | None = None
    """Parameters of generation for requests that do not set them, named as in `GenerationParameters`.
    Unset: none."""


class RetryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a target is tried again."""

    initial_seconds: Positive = 0.2
    """Longest wait before the first retry; the limit doubles with each. Each wait is drawn between 0 and its limit."""
    max_seconds: Positive = 2.0
    """The limit grows no further, and a target that asks for a longer wait is not waited for."""
    share: Share = 0.1
    """Retries are at most this share of the attempts at an integration: 0.1 is one in ten. 0: there are none."""
    reserve: Positive = 10.0
    """So many retries may be saved up, and are there from the start."""


class BreakerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a target that fails is left alone, and for how long."""

    failures: PositiveInt = 5
    """So many failures open the circuit, if they are also `share` of what was tried."""
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Share of failures that opens it."""
    half_life_seconds: Positive = 15.0
    """What is so long past counts half."""
    open_seconds: Positive = 5.0
    """How long nothing is tried; it doubles each time the first try after it fails."""
    max_open_seconds: Positive = 120.0
    """It grows no further."""


class HedgeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many answers may be asked of two targets at once."""

    share: Share = 0.1
    """At most this share of those that may be hedged: 0.1 is one in ten. 0: none."""
    reserve: Positive = 10.0
    """So many hedges may be saved up, and are there from the start."""


class ResilienceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How failures of targets are met; see `docs/resilience.md`."""

    retry: RetryConfig = RetryConfig()
    breaker: BreakerConfig = BreakerConfig()
    hedge: HedgeConfig = HedgeConfig()


class PriceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Price of a target, in US dollars for a million tokens."""

    input: Annotated[float, msgspec.Meta(ge=0)]
    """For tokens read."""
    output: Annotated[float, msgspec.Meta(ge=0)]
    """For tokens generated, reasoning included."""
    cached_input: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """For tokens read from the vendor's prompt cache. Unset: as `input`."""


class RedisConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Redis (6.2 or newer) that keeps the logs of responses for several gateways."""

    url: Secret
    """Where it is: `redis://host:6379/0`, `rediss://` with TLS. It may hold a password, so it counts as a secret."""
    on_loss: Literal["fail", "unlogged"] = "fail"
    """What becomes of running responses while it does not answer: they fail with RESPONSE_LOST, or they go on with a log
    in this process alone, which no other gateway can serve. New responses are refused either way."""
    lease_seconds: Annotated[float, msgspec.Meta(ge=0.5)] = 10.0
    """A response whose gateway gave no sign of life for so long is ended as lost by another one."""
    prefix: str = "sluice"
    """Of every key."""


class LogLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of each response is kept for resuming."""

    response_bytes: PositiveInt = 1024 * 1024
    """Per response; older events go first."""
    total_bytes: PositiveInt = 128 * 1024 * 1024
    """For all responses together, answers of ended ones included; the longest ended go first, and while what runs needs
    more than this, new responses are refused."""
    retention_seconds: Positive = 600.0
    """How long the events of an ended response are kept; then resuming it is RESUME_WINDOW_EXPIRED."""
    answer_seconds: Annotated[float, msgspec.Meta(ge=0)] = 3600.0
    """How long GetResponse has the answer of an ended response. Less than `retention_seconds` counts as that."""
    redis: RedisConfig | None = None
    """Keeps the logs in Redis, where every gateway finds them. Unset: in this process."""


class WatcherLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client that reads slowly may cost."""

    heartbeat_seconds: Positive = 10.0
    """An empty batch is sent after so much silence."""
    stall_seconds: Positive = 30.0
    """A watcher that takes nothing for so long is ended with WATCHER_STALLED; the response can be resumed."""
    queue_bytes: PositiveInt = 256 * 1024
    """The upstream is held back while a watcher is so far behind."""


class AdmissionLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much may run at once; above it, RESOURCE_EXHAUSTED at once. Responses and other calls (embeddings, reranking,
    token counts) are counted apart, because a response may need such a call."""

    in_flight: PositiveInt = 4096
    """Responses in this process."""
    in_flight_per_tenant: PositiveInt = 2048
    """Responses of one tenant."""
    calls_in_flight: PositiveInt = 1024
    """Other calls in this process."""
    calls_in_flight_per_tenant: PositiveInt = 512
    """Other calls of one tenant."""


class HealthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the health of the integrations is followed: closely while somebody watches (`sluice status --watch`)."""

    poll_seconds: Positive = 1.0
    """Pause between two questions to an adapter that is watched, which it answers without asking its vendor."""
    probe_seconds: Positive = 30.0
    """Pause between two probes of a vendor that is watched."""
    background_seconds: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """Pause, about, between two probes of an integration that nobody watches, so that lists of models know soon who came
    back, and logs who went. 0: nobody is asked then."""


class EmbeddingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many texts of one request are embedded at once."""

    batch_texts: PositiveInt = 256
    """Most texts that an adapter is asked for at once; it splits them further where its vendor takes fewer."""
    batch_characters: PositiveInt = 200_000
    """Most characters of them together, unless one text alone has more."""
    parallel: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Most batches of one request at a time."""


class CatalogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the integrations' lists of models are remembered."""

    age_seconds: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """A list that is older is fetched anew; while lists are in use that happens in the background. 0: always."""
    ask_seconds: Positive = 5.0
    """Longest wait for integrations that are asked; those that take longer are named as unreachable."""


class RecordsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the ledger is kept: responses, attempts and what they cost, and the integrations registered at run time."""

    url: Secret | None = None
    """A Postgres database, `postgresql://USER:PASSWORD@HOST/DATABASE`, which several gateways may share; its driver is
    installed with `sluice-gateway[postgres]`. Connections must not be shared by transaction (a pooler between has to keep
    sessions apart). Unset: `records.db`, SQLite, in the state folder."""
    connections: PositiveInt = 4
    """Most connections to Postgres, beside the one that writes."""
    lease_seconds: Positive = 30.0
    """A gateway that shares Postgres and is not heard of for so long is dead to the others, which end in the ledger what
    it left open."""
    poll_seconds: Positive = 2.0
    """So often a gateway that shares Postgres looks which integrations the others registered or removed."""


class ConversationsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where conversations are kept, for how long, and how much of one a model is told."""

    url: Secret | None = None
    """A Postgres database, `postgresql://USER:PASSWORD@HOST/DATABASE`, which several gateways may share; its driver is
    installed with `sluice-gateway[postgres]`. Unset: the database of `gateway.records.url`, or without one
    `conversations.db` in the state folder."""
    connections: PositiveInt = 8
    """Most connections to Postgres."""
    lease_seconds: Positive = 30.0
    """A gateway that shares Postgres and is not heard of for so long has lost the answers it was making."""
    max_waiting: Annotated[int, msgspec.Meta(ge=0)] = 16
    """So many answers may wait for their turn in one conversation; more are refused."""
    context_tokens: PositiveInt = 32_768
    """What a model can read, prompt and answer together, where it is not known."""
    history_bytes: PositiveInt = 8 * 1024 * 1024
    """Most of a conversation that is read for one answer; older turns are left out before tokens are counted."""
    max_age_seconds: Positive | None = None
    """A turn is kept for so long, where its conversation does not say; a conversation in which nothing happened for so
    long is deleted. Unset: without an end."""
    max_turns: PositiveInt | None = None
    """So many turns of a conversation are kept, where it does not say. Unset: all."""


class RetentionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the ledger is kept, and how what is too old is deleted, conversations included."""

    responses_seconds: Positive | None = None
    """How long the ledger knows of a response. Less than 24 hours counts as that, so that nothing is answered twice.
    Unset: without an end."""
    attempts_seconds: Positive | None = None
    """How long the ledger has its attempts, from which usage is added up. Unset: without an end."""
    sweep_seconds: Positive = 60.0
    """Pause between two passes, about."""
    batch: PositiveInt = 500
    """A pass looks at so many conversations, and deletes so many rows of each table of the ledger, at most."""


class CacheConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Kept answers, for the routes and requests that ask for them."""

    age_seconds: Positive = 3600.0
    """How long an answer is kept."""
    total_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 * 1024 * 1024
    """For all of them together; the longest unused go first. 0: there is no cache, whatever requests ask for."""
    entry_bytes: PositiveInt = 256 * 1024
    """Larger answers are not kept; the passages of a grounded one count."""
    tool_calls: bool = False
    """Whether answers that call tools are kept, too."""


class RegistrationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Integrations that administrators register at run time."""

    allow: tuple[str, ...] = ()
    """Addresses at which they may be: `HOST:PORT` or `unix:/PATH`, in which `*` stands for any text within the host, for
    the port, or within a part of the path. Empty: none may be registered."""


class PromptsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What models are told of the passages that a request is grounded in."""

    folder: str | None = None
    """Folder of templates of your own, relative to the configuration file: `grounded/v1.en.md` is used in place of the
    built-in one of that name, others stand beside them. At most 64 KiB each. Unset: only the built-in ones."""
    use: str = "grounded/v1"
    """The template, `use/version`, of routes that do not name another. Its language is that of the answer, where there is
    one in it, else English."""


def _default_routes() -> dict[str, RouteConfig]:
    return {"default": RouteConfig(targets=("extractive/quote",))}


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The gateway."""

    listen: str = "127.0.0.1:7400"
    """Address of the public listener."""
    tls: PublicTlsConfig | None = None
    """TLS of the public listener. Unset: none, and what stands in front of it ends TLS."""
    probe: str | None = None
    """Address for health checks alone."""
    internal: str | None = None
    """Address for services of the mesh, which speak for tenants and need no key: embeddings for the retrieval service.
    A Unix socket or loopback; anywhere with section `tls`. `sluice up` fills this in. Unset: none."""
    integrations: dict[str, IntegrationConfig] = {}
    """The adapters, by id. `sluice up` fills this in from the section `providers`."""
    retrieval: RetrievalConfig | None = None
    """The retrieval service. Unset: nothing can be grounded."""
    routes: dict[str, RouteConfig] = msgspec.field(default_factory=_default_routes)
    """Aliases. A request for `provider/model` needs none."""
    default_route: str = "default"
    """The alias for requests that name no model."""
    default_model: str | None = None
    """What answers where no target of a request can be used, because its adapter is down, is gone, has no valid
    credential or is left alone: an alias, or `provider/model`. The stream says so. Unset: the request fails."""
    limits: RoutePolicy = RoutePolicy()
    """Time limits and policy for requests that name `provider/model` instead of an alias."""
    resilience: ResilienceConfig = ResilienceConfig()
    prices: dict[str, PriceConfig] = {}
    """Prices by `provider/model`."""
    replicas: PositiveInt = 1
    """How many gateways serve this mesh together. More than one need `log.redis` and `records.url`."""
    log: LogLimits = LogLimits()
    watchers: WatcherLimits = WatcherLimits()
    admission: AdmissionLimits = AdmissionLimits()
    embeddings: EmbeddingConfig = EmbeddingConfig()
    health: HealthConfig = HealthConfig()
    catalog: CatalogConfig = CatalogConfig()
    cache: CacheConfig = CacheConfig()
    registration: RegistrationConfig = RegistrationConfig()
    prompts: PromptsConfig = PromptsConfig()
    records: RecordsConfig = RecordsConfig()
    conversations: ConversationsConfig = ConversationsConfig()
    retention: RetentionConfig = RetentionConfig()
