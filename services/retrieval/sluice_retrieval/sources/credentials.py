"""Named credentials for private repositories: who may use which, for which host, and as which user."""

import re
from collections.abc import Mapping
from typing import Final

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2 as pb
from sluice_kit.errors import make_error
from sluice_retrieval.config import CredentialConfig
from sluice_retrieval.sources.login import Login

HTTPS_PORT: Final = 443
_HOST: Final = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[1-9][0-9]{0,4})?$")
_WORD: Final = re.compile(r"^[\x21-\x7e]+$")
_KINDS: Final = {
    "github": pb.GitHost.GIT_HOST_GITHUB,
    "gitlab": pb.GitHost.GIT_HOST_GITLAB,
    "bitbucket": pb.GitHost.GIT_HOST_BITBUCKET,
}
_USERS: Final = {
    pb.GitHost.GIT_HOST_GITHUB: "x-access-token",
    pb.GitHost.GIT_HOST_GITLAB: "oauth2",
    pb.GitHost.GIT_HOST_BITBUCKET: "x-token-auth",
    pb.GitHost.GIT_HOST_GIT: "git",
}
_NOT_HERE: Final = "this credential is not for the host of the address: it is sent to the hosts that it lists alone"


class Credentials:
    """The operator's credentials by their name."""

    def __init__(self, configured: Mapping[str, CredentialConfig]) -> None:
        self._configured = dict(configured)

    def login(self, name: str, tenant: str, host: str, port: int, kind: "pb.GitHost.ValueType") -> Login:
        """Returns what to send to a host. Raises SOURCE_NOT_ALLOWED, or INTEGRATION_MISCONFIGURED without a token.

        A credential that another tenant alone may use does not exist, as far as the answer tells.
        """
        found = self._configured.get(name)
        if found is None or (found.tenants is not None and tenant not in found.tenants):
            raise make_error(
                ErrorReason.ERROR_REASON_SOURCE_NOT_ALLOWED,
                "there is no credential of this name for you (retrieval.git.credentials)",
                metadata={"rule": "credentials"},
            )
        if not any(_place(listed) == (host, port) for listed in found.hosts):
            raise make_error(
                ErrorReason.ERROR_REASON_SOURCE_NOT_ALLOWED, _NOT_HERE, metadata={"rule": "credential_hosts"}
            )
        if found.token.missing:
            raise make_error(
                ErrorReason.ERROR_REASON_INTEGRATION_MISCONFIGURED,
                f"environment variable {found.token.missing} is not set where the retrieval service runs",
                metadata={"variable": found.token.missing},
            )
        return Login(found.user or _USERS[kind], found.token.reveal())


def kind_of(host: str, told: "pb.GitHost.ValueType") -> "pb.GitHost.ValueType":
    """Returns the kind of a host: what the request says, else what its name does (`gitlab.example.org`), else plain."""
    if told != pb.GitHost.GIT_HOST_UNSPECIFIED:
        return told
    for label in host.split("."):
        for name, kind in _KINDS.items():
            if label == name or label.startswith(f"{name}-") or label.endswith(f"-{name}"):
                return kind
    return pb.GitHost.GIT_HOST_GIT


def mistake_in(credential: CredentialConfig) -> tuple[str, str] | None:
    """Returns the setting of a credential that cannot be used, and why; None if all can."""
    if not credential.hosts:
        return "hosts", "expected at least one host"
    for host in credential.hosts:
        if not _HOST.match(host.lower()):
            return "hosts", f"'{host}': expected host or host:port"
    # They are told to git in lines, and to the host as one text with a colon between them.
    if credential.user is not None and (not _WORD.match(credential.user) or ":" in credential.user):
        return "user", "expected printable ASCII without spaces and colons"
    if credential.token and not _WORD.match(credential.token.reveal()):
        return "token", "expected printable ASCII without spaces"
    return None


def _place(listed: str) -> tuple[str, int]:
    host, _, port = listed.lower().partition(":")
    return host, int(port) if port else HTTPS_PORT
