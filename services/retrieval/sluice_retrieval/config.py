"""The section `retrieval` of the configuration."""

import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from sluice_kit.secrets import Secret


class GatewayConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where dense vectors come from."""

    address: str
    """Address of the gateway's inner listener, its `gateway.internal`: `unix:/path`, or `host:port` on loopback."""


class EmbedderConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The embedder of corpora that are created without one."""

    model: str
    """`provider/model` of the gateway, e.g. `openai/text-embedding-3-small`; or `local/all-MiniLM-L6-v2` with 384
    dimensions, which runs on this machine where `requirements/minilm.lock` is installed."""
    dimensions: int
    """Length of its vectors."""


class RerankerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that orders what a search found, by reading question and text together."""

    model: str
    """`provider/model` of the gateway, e.g. `vllm/bge-reranker-v2-m3`."""
    candidates: int = 40
    """How many of the best it is given."""
    seconds: float = 5.0
    """Longest wait for it; then the search answers without, unless it was asked for."""


class LimitsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one source may cost. Beyond these an index fails with SOURCE_LIMIT_EXCEEDED, except where noted."""

    max_files: int = 200_000
    """Files that count."""
    max_file_bytes: int = 1024 * 1024
    """Size of one file; larger ones are skipped as `too_large`."""
    max_total_bytes: int = 2 * 1024 * 1024 * 1024
    """Size of all files that count, and of what is fetched of a repository."""
    max_depth: int = 64
    """Folders within folders."""
    max_objects: int = 1_000_000
    """Objects in what is fetched of a repository, and entries of a source that are looked at, whether they count or not."""
    max_seconds: float = 3600.0
    """Time for one index."""


class ChunksConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How texts are cut."""

    target_chars: int = 1600
    """A chunk is closed rather than grown beyond this many characters."""
    small_chars: int = 400
    """A class or section up to this size stays whole."""


class CredentialConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What private repositories are fetched with. Requests give its name, and never see the token."""

    hosts: tuple[str, ...]
    """The only hosts that it is sent to: `host` for the usual port of https, `host:port` for another."""
    token: Secret
    """The token, e.g. `${GITHUB_TOKEN}`."""
    user: str | None = None
    """The user that the token belongs to. Unset: what the kind of host takes with a token: `x-access-token` (GitHub),
    `oauth2` (GitLab), `x-token-auth` (Bitbucket), `git` elsewhere."""
    tenants: tuple[str, ...] | None = None
    """The tenants that may use it. Unset: all."""


class GitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which repositories may be fetched."""

    allowed_hosts: tuple[str, ...] = ("github.com", "gitlab.com", "bitbucket.org")
    """Hosts that https addresses may name; `*` for any. Each must have public addresses only."""
    private_hosts: tuple[str, ...] = ()
    """Hosts that may be fetched from although their addresses are not public, e.g. a GitLab of one's own."""
    ca_file: str | None = None
    """Certificates that hosts are checked against, in PEM, relative to the configuration file. Unset: the system's."""
    credentials: dict[str, CredentialConfig] = {}
    """Credentials for private repositories, by the name that requests give."""
    keep_fetched: bool = True
    """Whether what was fetched of a repository is kept with its corpus, so that the next index fetches the difference."""


class QdrantConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Qdrant server or cluster."""

    url: str = ""
    """Its address, e.g. `http://127.0.0.1:6333`; https for TLS. Required with `kind: qdrant`. With `kind: edge` it is where
    corpora are that were not moved from there yet."""
    grpc_port: int = 6334
    """Port of its grpc interface, which is the one used."""
    api_key: Secret = Secret("")
    """Its key. Empty: none is sent."""
    collection: str = "sluice"
    """How the names of its collections begin. They belong to this installation alone."""
    shards: int | None = None
    """Shards of a new collection. Unset: one for each node."""
    replication_factor: int = 2
    """Copies of each shard in a cluster. A single server keeps one."""
    write_consistency: int = 1
    """Copies that must have a change before it counts as made."""
    timeout_seconds: float = 30.0
    """Longest wait for one request."""
    tries: int = 5
    """How often a request is made in all when the connection breaks or the server asks to slow down."""
    batch_points: int = 128
    """Points in one request that writes."""
    concurrent_writes: int = 2
    """Requests that write at the same time."""


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where vectors are kept."""

    kind: Literal["edge", "qdrant"] = "edge"
    """Where new indexes go. `edge`: on the local disk, in a process of our own. `qdrant`: on a Qdrant server. Corpora that
    are elsewhere stay there until they are moved (`sluice corpora move`) or indexed again."""
    qdrant: QdrantConfig = QdrantConfig()
    """Which server."""


class RecordsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where corpora, documents and tasks are on record."""

    url: Secret | None = None
    """A Postgres database, `postgresql://USER:PASSWORD@HOST/DATABASE`, which several retrieval services may share, the
    texts of files included; its driver is installed with `sluice-retrieval[postgres]`. Connections must not be shared by
    transaction (a pooler between has to keep sessions apart). Unset: SQLite, and files, in the folder."""


class RetrievalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section `retrieval`."""

    listen: str = "127.0.0.1:7410"
    """Address to serve on."""
    probe: str | None = None
    """Address for health checks alone. Unset: none."""
    folder: str | None = None
    """Where corpora are kept. Unset: `retrieval` in the state_dir."""
    allowed_roots: tuple[str, ...] | None = None
    """Folders below which sources may lie. Unset: the user's home, the working directory and the folder for temporary
    files where authentication is off; none otherwise."""
    gateway: GatewayConfig | None = None
    """Needed for dense vectors alone."""
    embedder: EmbedderConfig | None = None
    """Unset: corpora are searched by words alone, unless created with an embedder."""
    reranker: RerankerConfig | None = None
    """Unset: the order is that of words and meaning."""
    limits: LimitsConfig = LimitsConfig()
    """What one source may cost."""
    chunks: ChunksConfig = ChunksConfig()
    """How texts are cut."""
    git: GitConfig = GitConfig()
    """Which repositories may be fetched."""
    store: StoreConfig = StoreConfig()
    """Where vectors are kept."""
    records: RecordsConfig = RecordsConfig()
    """Where everything else is kept."""
    replicas: int = 1
    """How many retrieval services serve this mesh together. More than one need `records.url` and `store.kind: qdrant`, and
    see the same local folders, if those are indexed."""
    concurrent_tasks: int = 1
    """Indexes made at the same time; others wait."""
    keep_revisions_seconds: float = 24 * 3600.0
    """How long the texts of a revision are kept after another took its place."""
    keep_tasks_seconds: float = 7 * 24 * 3600.0
    """How long tasks are kept after their end."""


def default_roots() -> tuple[Path, ...]:
    """Returns the folders below which sources may lie where only the user's own processes can call."""
    return (Path.home(), Path.cwd(), Path(tempfile.gettempdir()))
