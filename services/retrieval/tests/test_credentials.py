"""Named credentials: who may use which, for which host, and that a token is seen by nobody but the host."""

import base64
import contextlib
import logging
import sqlite3
from pathlib import Path

import msgspec
import pytest
import yaml

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2
from sluice.task.v1 import task_service_pb2
from sluice_kit import config as configs
from sluice_kit.config import ConfigError
from sluice_kit.errors import SluiceError
from sluice_kit.secrets import Secret
from sluice_kit.testing import document_of
from sluice_retrieval.config import CredentialConfig
from sluice_retrieval.service import RetrievalService
from sluice_retrieval.sources.credentials import Credentials, kind_of
from sluice_retrieval.sources.login import Login
from sluice_retrieval.sources.policy import AllowedRepository, SourcePolicy

from .git_https import GitHandler, serving

R = ErrorReason
TOKEN = "tok-4f9a1c77e2b84d55"
H = corpus_pb2.GitHost


def basic(user: str, token: str = TOKEN) -> str:
    return "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()


@pytest.fixture
def served(tmp_path, source, git):
    """The port and certificate of a server with a private repository, `tea.git`, and a public one, `open.git`."""
    git(source, "init", "-q", "-b", "main")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "one")
    with serving(tmp_path) as (port, certificate):
        for name in ("tea.git", "open.git"):
            git(source, "clone", "-q", "--bare", str(source), str(tmp_path / "served" / name))
        GitHandler.logins = {"/tea.git": basic("git"), "/group/": basic("oauth2")}
        yield port, certificate


def settings(port: int, certificate: Path, **credential) -> dict[str, object]:
    named = {"hosts": [f"localhost:{port}"], "token": TOKEN} | credential
    return {"git": {"private_hosts": ["localhost"], "ca_file": str(certificate), "credentials": {"mine": named}}}


def source_of(port: int, path: str = "tea.git", **fields) -> corpus_pb2.GitSource:
    return corpus_pb2.GitSource(url=f"https://localhost:{port}/{path}", **fields)


def seen_of(pid: str) -> str:
    """Returns what anybody with the rights of the user sees of a process: its arguments and its environment."""
    try:
        return (Path("/proc") / pid / "cmdline").read_text(errors="replace") + (
            Path("/proc") / pid / "environ"
        ).read_text(errors="replace")
    except OSError:
        return ""


async def test_a_private_repository_is_fetched_and_nobody_else_sees_the_token(
    start, served, tmp_path, caplog, capfd, monkeypatch
):
    caplog.set_level(logging.DEBUG)
    port, certificate = served
    secrets = (TOKEN, basic("git").removeprefix("Basic "))
    looked: list[str] = []
    leaks: list[str] = []

    def look() -> None:
        for pid in filter(str.isdigit, (entry.name for entry in Path("/proc").iterdir())):
            shown = seen_of(pid)
            looked.append(shown.split("\0")[0])
            leaks.extend(shown.split("\0")[0] for secret in secrets if secret in shown)

    GitHandler.before_pack = [look]
    async with start(settings(port, certificate)) as client:
        result = await client.index(source_of(port, credential="mine"))
        assert result.files == 4
        tasks = await client.call("ListTasks", task_service_pb2.ListTasksRequest())
        corpus = await client.get()
        assert corpus.source.git.credential == "mine"
        written = str(tasks) + str(corpus)
    assert any("git-remote-https" in name for name in looked), "the look came while git was at it"
    assert leaks == []
    assert {login for _, login in GitHandler.sent} == {basic("git")}
    out, err = capfd.readouterr()
    written += out + err + caplog.text + "".join(str(vars(record)) for record in caplog.records)
    state = tmp_path / ".state"
    with contextlib.closing(sqlite3.connect(state / "retrieval" / "records.sqlite")) as database:
        written += "\n".join(database.iterdump())
    for path in state.rglob("*"):
        if path.is_file() and path.suffix != ".dat":
            written += path.read_bytes().decode(errors="replace")
    for secret in secrets:
        assert secret not in written


async def test_a_token_is_sent_only_where_it_is_asked_for(start, served):
    port, certificate = served
    async with start(settings(port, certificate)) as client:
        await client.index(source_of(port, "open.git", credential="mine"))
        assert GitHandler.sent == []
        await client.index(source_of(port, "open.git"), "other")
    assert GitHandler.sent == []


async def test_without_a_credential_none_is_used(start, served):
    port, certificate = served
    async with start(settings(port, certificate)) as client:
        await client.create()
        task = await client.ended((await client.start_index(source_of(port))).name)
        assert "SOURCE_UNREADABLE" in str(task.error)
        assert "credential" in task.error.message
    assert GitHandler.sent == []


async def test_a_wrong_token_is_told_and_not_shown(start, served, caplog):
    port, certificate = served
    async with start(settings(port, certificate, token="tok-wrong-wrong")) as client:
        await client.create()
        task = await client.ended((await client.start_index(source_of(port, credential="mine"))).name)
        assert "SOURCE_UNREADABLE" in str(task.error)
    assert GitHandler.sent
    assert "tok-wrong" not in str(task) + caplog.text


async def test_a_token_does_not_follow_a_redirect(start, served):
    port, certificate = served
    GitHandler.logins = {"/": basic("git")}
    async with start(settings(port, certificate)) as client:
        await client.create()
        task = await client.ended((await client.start_index(source_of(port, "moved/tea.git", credential="mine"))).name)
        assert "SOURCE_UNREADABLE" in str(task.error)
    assert {path.split("/")[1] for path, _ in GitHandler.sent} <= {"moved"}
    assert all(path.startswith("/moved/") for path in GitHandler.asked)


async def test_a_gitlab_of_ones_own_with_groups_in_groups(start, served, git, source, tmp_path):
    port, certificate = served
    git(source, "clone", "-q", "--bare", str(source), str(tmp_path / "served" / "group" / "inner" / "tea.git"))
    async with start(settings(port, certificate)) as client:
        place = source_of(port, "group/inner/tea", credential="mine", host=H.GIT_HOST_GITLAB)
        assert (await client.index(place)).files == 4
    assert {login for _, login in GitHandler.sent} == {basic("oauth2")}


async def test_a_user_of_ones_own(start, served):
    port, certificate = served
    GitHandler.logins = {"/tea.git": basic("deploy")}
    async with start(settings(port, certificate, user="deploy")) as client:
        assert (await client.index(source_of(port, credential="mine", host=H.GIT_HOST_BITBUCKET))).files == 4


async def test_who_may_use_a_credential(start, served):
    port, certificate = served
    async with start(settings(port, certificate, tenants=["acme"])) as client:
        acme = client.as_tenant("acme")
        assert (await acme.index(source_of(port, credential="mine"))).files == 4
        await client.create()
        failures = []
        for name in ("mine", "no-such-name"):
            with pytest.raises(SluiceError) as failure:
                await client.start_index(source_of(port, credential=name))
            failures.append((failure.value.reason, failure.value.message, dict(failure.value.metadata)))
        # Who may not use it is told the same as if there were none.
        assert failures[0] == failures[1]
        assert failures[0][0] == R.ERROR_REASON_SOURCE_NOT_ALLOWED
        assert failures[0][2] == {"rule": "credentials"}


async def test_a_credential_that_was_taken_away_meanwhile_is_not_used(start, served):
    """The task checks again what the call checked."""
    port, certificate = served
    async with start(settings(port, certificate) | {"concurrent_tasks": 1}) as client:
        client.service.policy._credentials._configured.clear()
        await client.create()
        with pytest.raises(SluiceError):
            await client.start_index(source_of(port, credential="mine"))


def credentials(**fields) -> Credentials:
    found = CredentialConfig(("git.example.org",), Secret(TOKEN))
    return Credentials({"mine": msgspec.structs.replace(found, **fields)})


@pytest.mark.parametrize(
    ("listed", "host", "port", "used"),
    [
        ("git.example.org", "git.example.org", 443, True),
        ("GIT.example.org", "git.example.org", 443, True),
        ("git.example.org", "git.example.org", 8443, False),
        ("git.example.org:8443", "git.example.org", 8443, True),
        ("git.example.org:8443", "git.example.org", 443, False),
        ("git.example.org", "a.git.example.org", 443, False),
        ("git.example.org", "example.org", 443, False),
        ("git.example.org", "git.example.org.evil.net", 443, False),
    ],
)
def test_a_host_is_meant_exactly(listed, host, port, used):
    found = credentials(hosts=(listed,))
    if used:
        assert found.login("mine", "local", host, port, H.GIT_HOST_GIT) == Login("git", TOKEN)
        return
    with pytest.raises(SluiceError) as failure:
        found.login("mine", "local", host, port, H.GIT_HOST_GIT)
    assert failure.value.metadata == {"rule": "credential_hosts"}
    assert TOKEN not in str(failure.value)


@pytest.mark.parametrize(
    ("host", "told", "user", "path"),
    [
        ("github.com", H.GIT_HOST_UNSPECIFIED, "x-access-token", "/a/b"),
        ("github.example.org", H.GIT_HOST_UNSPECIFIED, "x-access-token", "/a/b"),
        ("code.example.org", H.GIT_HOST_GITHUB, "x-access-token", "/a/b"),
        ("gitlab.com", H.GIT_HOST_UNSPECIFIED, "oauth2", "/a/b.git"),
        ("gitlab.example.org", H.GIT_HOST_UNSPECIFIED, "oauth2", "/a/b.git"),
        ("code.example.org", H.GIT_HOST_GITLAB, "oauth2", "/a/b.git"),
        ("bitbucket.org", H.GIT_HOST_UNSPECIFIED, "x-token-auth", "/a/b"),
        ("code.example.org", H.GIT_HOST_UNSPECIFIED, "git", "/a/b"),
        ("github.com", H.GIT_HOST_GIT, "git", "/a/b"),
        ("notgithub.com", H.GIT_HOST_UNSPECIFIED, "git", "/a/b"),
    ],
)
def test_hosts_and_the_user_that_they_take_with_a_token(monkeypatch, host, told, user, path):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("93.184.216.34", 443))])
    policy = SourcePolicy([], ["*"], [], credentials=credentials(hosts=(host,)))
    place = corpus_pb2.GitSource(url=f"https://{host}/a/b/", host=told, credential="mine")
    found = policy.check(corpus_pb2.Source(git=place), "local")
    assert isinstance(found, AllowedRepository)
    assert found.login == Login(user, TOKEN)
    assert found.url == f"https://{host}:443{path}"
    assert TOKEN not in repr(found) + str(found.login)
    assert kind_of(host, told) != H.GIT_HOST_UNSPECIFIED


def test_a_credential_is_for_https_alone(tmp_path):
    policy = SourcePolicy([tmp_path], ["*"], [], credentials=credentials())
    for url in (str(tmp_path), tmp_path.as_uri(), "http://git.example.org/a"):
        with pytest.raises(SluiceError) as failure:
            policy.check(corpus_pb2.Source(git=corpus_pb2.GitSource(url=url, credential="mine")), "local")
        assert failure.value.reason == R.ERROR_REASON_INVALID_REQUEST


def test_a_token_whose_variable_is_not_set_is_named(tmp_path):
    path = tmp_path / "sluice.yaml"
    section = {"git": {"credentials": {"mine": {"hosts": ["git.example.org"], "token": "${MY_GIT_TOKEN}"}}}}
    path.write_text(yaml.safe_dump({"retrieval": section}))
    service = RetrievalService(configs.load(path, environ={}))
    place = corpus_pb2.GitSource(url="https://github.com/a/b", credential="mine")
    with pytest.raises(SluiceError) as failure:
        service.policy.check(corpus_pb2.Source(git=place), "local")
    assert failure.value.metadata == {"rule": "credential_hosts"}
    with pytest.raises(SluiceError) as failure:
        service.policy._credentials.login("mine", "local", "git.example.org", 443, H.GIT_HOST_GIT)
    assert failure.value.reason == R.ERROR_REASON_INTEGRATION_MISCONFIGURED
    assert failure.value.metadata == {"variable": "MY_GIT_TOKEN"}


@pytest.mark.parametrize(
    ("credential", "named"),
    [
        ({"hosts": []}, "mine.hosts"),
        ({"hosts": ["https://git.example.org"]}, "mine.hosts"),
        ({"hosts": ["*"]}, "mine.hosts"),
        ({"token": "two\nlines"}, "mine.token"),
        ({"user": "a:b"}, "mine.user"),
        ({"scope": "all"}, "scope: no such setting"),
    ],
)
def test_credentials_that_cannot_be_used_are_named(tmp_path, credential, named):
    values = {"hosts": ["git.example.org"], "token": "x"} | credential
    with pytest.raises(ConfigError, match=named) as failure:
        RetrievalService(document_of({"retrieval": {"git": {"credentials": {"mine": values}}}}, tmp_path))
    assert "two" not in str(failure.value)
