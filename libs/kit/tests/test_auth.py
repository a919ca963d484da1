"""Who calls, and what they may do."""

import hashlib
from pathlib import Path

import pytest

from sluice.auth.v1.identity_pb2 import Identity, Role
from sluice_kit import identity
from sluice_kit.auth import DelegatedAuthenticator, LocalAuthenticator, internal_authenticator, is_local_peer, read_keys
from sluice_kit.config import ConfigError, load
from sluice_kit.errors import AuthenticationError, PermissionDeniedError
from sluice_kit.roles import authorize

KEY = "sk-sluice-test"
SEARCH = "/sluice.retrieval.v1.SearchService/Search"
INDEX = "/sluice.retrieval.v1.CorpusService/IndexCorpus"


def keys_file(tmp_path: Path, **row: str) -> Path:
    fields = {"id": "k1", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), "tenant": "acme", **row}
    path = tmp_path / "keys.yaml"
    path.write_text("keys:\n  - " + "\n    ".join(f"{name}: {value}" for name, value in fields.items()) + "\n")
    return path


def test_a_known_key(tmp_path: Path) -> None:
    found = read_keys(keys_file(tmp_path, roles="[editor]")).authenticate([("authorization", f"Bearer {KEY}")], "peer")
    assert (found.tenant, found.key_id, list(found.roles)) == ("acme", "k1", [Role.ROLE_EDITOR])


@pytest.mark.parametrize(
    "metadata", [[], [("authorization", "Bearer wrong")], [("authorization", KEY)], [("x-api-key", KEY)]]
)
def test_no_or_an_unknown_key(tmp_path: Path, metadata: list[tuple[str, str]]) -> None:
    with pytest.raises(AuthenticationError):
        read_keys(keys_file(tmp_path)).authenticate(metadata, "peer")


def test_a_client_cannot_bring_its_own_identity(tmp_path: Path) -> None:
    """The public listener never looks at the entry, with or without keys."""
    forged = (identity.IDENTITY_KEY, identity.encode(Identity(tenant="victim", roles=[Role.ROLE_ADMIN])))
    found = read_keys(keys_file(tmp_path)).authenticate([forged, ("authorization", f"Bearer {KEY}")], "peer")
    assert found.tenant == "acme"
    assert LocalAuthenticator().authenticate([forged], "peer").tenant == identity.LOCAL_TENANT


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"sha256": "abc"}, "64 hexadecimal"),
        ({"tenant": "''"}, "needs a tenant"),
        ({"roles": "[root]"}, "roles"),
        ({"secret": "x"}, "secret"),
    ],
)
def test_a_keys_file_with_a_mistake(tmp_path: Path, row: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_keys(keys_file(tmp_path, **row))


def test_a_keys_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_keys(tmp_path / "keys.yaml")


def delegated(tenant: str) -> list[tuple[str, str | bytes]]:
    return [(identity.IDENTITY_KEY, identity.encode(Identity(tenant=tenant, roles=[Role.ROLE_USER])))]


def test_inside_the_mesh_local_peers_speak_for_others() -> None:
    authenticator = DelegatedAuthenticator(default=None, trust_any_peer=False)
    assert authenticator.authenticate(delegated("acme"), "unix:").tenant == "acme"
    with pytest.raises(AuthenticationError, match="may not speak for others"):
        authenticator.authenticate(delegated("acme"), "ipv4:10.0.0.9:1234")
    with pytest.raises(AuthenticationError, match="no identity"):
        authenticator.authenticate([], "unix:")
    with pytest.raises(AuthenticationError, match="names no tenant"):
        authenticator.authenticate(delegated(""), "unix:")
    with pytest.raises(AuthenticationError, match="cannot be read"):
        authenticator.authenticate([(identity.IDENTITY_KEY, b"\xff\xff")], "unix:")


def test_who_shows_a_certificate_is_judged_by_it_alone() -> None:
    gateway, adapter = "spiffe://sluice.local/gateway", "spiffe://sluice.local/openai"
    for trusting in (False, True):  # even where any other peer would be believed
        authenticator = DelegatedAuthenticator(default=None, trust_any_peer=trusting, delegates=frozenset({gateway}))
        assert authenticator.authenticate(delegated("acme"), gateway).tenant == "acme"
        with pytest.raises(AuthenticationError, match="may not speak for others"):
            authenticator.authenticate(delegated("acme"), adapter)


def test_with_keys_a_call_without_identity_did_not_pass_the_door() -> None:
    local = internal_authenticator(load(None, environ={}))
    assert local.authenticate([], "unix:").tenant == identity.LOCAL_TENANT
    keyed = internal_authenticator(load(None, ["auth.mode=keys", "auth.keys_file=x"], {}))
    with pytest.raises(AuthenticationError):
        keyed.authenticate([], "unix:")


@pytest.mark.parametrize(
    ("peer", "local"),
    [("unix:", True), ("ipv4:127.0.0.1:5", True), ("ipv6:%5B::1%5D:5", True), ("ipv4:10.1.1.1:5", False)],
)
def test_local_peers(peer: str, local: bool) -> None:
    assert is_local_peer(peer) is local


def test_roles_include_the_ones_before() -> None:
    user, editor = (Identity(tenant="t", roles=[role]) for role in (Role.ROLE_USER, Role.ROLE_EDITOR))
    authorize(user, SEARCH)
    authorize(editor, SEARCH)
    authorize(editor, INDEX)
    with pytest.raises(PermissionDeniedError) as caught:
        authorize(user, INDEX)
    assert caught.value.metadata == {"role": "EDITOR"}


def test_what_is_not_in_the_table_is_denied() -> None:
    with pytest.raises(PermissionDeniedError):
        authorize(identity.LOCAL_IDENTITY, "/sluice.gateway.v1.ChatService/NotThere")
    with pytest.raises(PermissionDeniedError):
        authorize(Identity(tenant="t"), SEARCH)
