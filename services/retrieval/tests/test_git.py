"""Repositories: fetched bare and shallow, read blob by blob, within the operator's rules."""

from pathlib import Path

import pytest

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice.retrieval.v1 import corpus_pb2, corpus_service_pb2
from sluice.task.v1 import task_service_pb2
from sluice_kit.errors import SluiceError
from sluice_retrieval.sources.policy import AllowedRepository, SourcePolicy

R = ErrorReason


@pytest.fixture
def repository(source, git):
    """The small project as a repository with a branch, a tag, and all that must not be read."""
    git(source, "init", "-q", "-b", "main")
    (source / ".gitattributes").write_text("*.txt export-ignore\n")
    (source / "out").symlink_to("/etc/passwd")
    (source / "blob.bin").write_bytes(b"\0\1\2")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "one")
    git(source, "tag", "-am", "v1", "v1")
    git(source, "checkout", "-q", "-b", "feature/iced")
    (source / "iced.md").write_text("# Iced tea\n\nWith lemon.\n")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "two")
    git(source, "checkout", "-q", "main")
    return source


async def paths(client) -> list[str]:
    request = corpus_service_pb2.ListDocumentsRequest(corpus="corpora/docs")
    return [document.path for document in (await client.call("ListDocuments", request)).documents]


async def test_a_revision_is_a_commit(client, repository, git):
    head = git(repository, "rev-parse", "HEAD")
    result = await client.index(corpus_pb2.GitSource(url=repository.as_uri()))
    assert result.corpus.revision == head
    assert dict(result.skipped) == {"symlink": 1, "binary": 1}
    assert await paths(client) == [".gitattributes", "README.md", "notes.txt", "pot/client.py", "pot/server.py"]
    passage, *_ = await client.search("brew_tea oolong")
    assert passage.revision == head
    assert await client.verify(passage) == ["VALID"]


@pytest.mark.parametrize("revision", ["feature/iced", "v1", "main", "commit"])
async def test_branches_tags_and_commits(client, repository, git, revision):
    named = git(repository, "rev-parse", "feature/iced") if revision == "commit" else revision
    result = await client.index(corpus_pb2.GitSource(url=str(repository), revision=named))
    assert result.corpus.revision == git(repository, "rev-parse", f"{named}^{{commit}}")
    assert ("iced.md" in await paths(client)) == (revision in ("feature/iced", "commit"))


def fetched(tmp_path) -> list[Path]:
    return sorted((tmp_path / ".state" / "retrieval" / "fetched").glob("*"))


async def test_what_is_fetched_stays_bare_and_goes_with_its_corpus(client, repository, tmp_path):
    await client.index(corpus_pb2.GitSource(url=str(repository)))
    (kept,) = fetched(tmp_path)
    assert not list(kept.rglob("README.md"))
    await client.index(corpus_pb2.GitSource(url=str(repository)), dry_run=True)
    assert fetched(tmp_path) == [kept]
    await client.call("DeleteCorpus", corpus_service_pb2.DeleteCorpusRequest(name="corpora/docs"))
    assert not fetched(tmp_path)


async def test_nothing_is_left_of_a_fetch_where_nothing_is_to_be_kept(start, repository, tmp_path):
    async with start() as client:
        await client.index(corpus_pb2.GitSource(url=str(repository)))
        assert fetched(tmp_path)
    async with start({"git": {"keep_fetched": False}}) as client:
        assert not fetched(tmp_path)
        await client.index(corpus_pb2.GitSource(url=str(repository)))
        assert not fetched(tmp_path)


async def test_filters_and_limits_hold_for_repositories(start, repository):
    async with start({"limits": {"max_files": 4, "max_file_bytes": 200}}) as client:
        filters = corpus_pb2.PathFilters(exclude=["/.gitattributes"])
        result = await client.index(corpus_pb2.GitSource(url=str(repository)), filters=filters)
        assert dict(result.skipped) == {"symlink": 1, "binary": 1, "too_large": 1, "excluded": 1}
    async with start({"limits": {"max_files": 1}}) as client:
        task = await client.ended((await client.start_index(corpus_pb2.GitSource(url=str(repository)))).name)
        assert "max_files" in str(task.error)


async def test_what_cannot_be_fetched_says_so(client, repository, tmp_path):
    await client.create()
    empty = tmp_path / "empty"
    empty.mkdir()
    for git_source in (
        corpus_pb2.GitSource(url=str(empty)),
        corpus_pb2.GitSource(url=str(repository), revision="no-such-branch"),
        corpus_pb2.GitSource(url=str(repository), revision="0" * 40),
    ):
        task = await client.ended((await client.start_index(git_source)).name)
        assert task.state == task_service_pb2.TASK_STATE_FAILED
        assert "SOURCE_UNREADABLE" in str(task.error)
        assert str(tmp_path) not in task.error.message


async def test_a_hostile_tree_stays_inside(client, repository, git, tmp_path):
    """Names that git itself refuses to write can still be in a tree that someone made by hand."""
    blob = git(repository, "hash-object", "-w", "notes.txt")
    commit = git(repository, "rev-parse", "HEAD")
    tree = b"".join(
        mode + b" " + name + b"\0" + bytes.fromhex(value)
        for mode, name, value in (
            (b"100644", b"..", blob),
            (b"160000", b"module", commit),
            (b"100644", b"plain.txt", blob),
            (b"100644", b"win\\dows.txt", blob),
        )
    )
    (tmp_path / "tree").write_bytes(tree)
    written = git(repository, "hash-object", "-w", "-t", "tree", "--literally", str(tmp_path / "tree"))
    made = git(repository, "commit-tree", "-m", "evil", written)
    git(repository, "update-ref", "refs/heads/evil", made)
    result = await client.index(corpus_pb2.GitSource(url=str(repository), revision="evil"))
    assert await paths(client) == ["plain.txt"]
    assert dict(result.skipped) == {"submodule": 1, "bad_name": 2}


async def test_hooks_of_the_repository_do_not_run(client, repository, tmp_path):
    proof = tmp_path / "ran"
    for name in ("post-checkout", "pre-auto-gc", "reference-transaction", "post-upload-pack"):
        hook = repository / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {proof}\n")
        hook.chmod(0o755)
    await client.index(corpus_pb2.GitSource(url=str(repository)))
    assert not proof.exists()


def policy(**fields) -> SourcePolicy:
    values = {"roots": [], "allowed_hosts": ["git.example.org", "localhost"], "private_hosts": []} | fields
    return SourcePolicy(**values)


def source_of(url: str, **fields) -> corpus_pb2.Source:
    return corpus_pb2.Source(git=corpus_pb2.GitSource(url=url, **fields))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://git.example.org/a", R.ERROR_REASON_INVALID_REQUEST),
        ("ssh://git@git.example.org/a", R.ERROR_REASON_INVALID_REQUEST),
        ("git@git.example.org:a", R.ERROR_REASON_INVALID_REQUEST),
        ("ext::sh -c touch% x", R.ERROR_REASON_INVALID_REQUEST),
        ("-oProxyCommand=x", R.ERROR_REASON_INVALID_REQUEST),
        ("https://user:secret@git.example.org/a", R.ERROR_REASON_INVALID_REQUEST),
        ("https://git.example.org/a?x=1", R.ERROR_REASON_INVALID_REQUEST),
        ("https://git.example.org:99999/a", R.ERROR_REASON_INVALID_REQUEST),
        ("https://[::1/a", R.ERROR_REASON_INVALID_REQUEST),
        ("https://gít.example.org/a", R.ERROR_REASON_INVALID_REQUEST),
        ("https://evil.example.org/a", R.ERROR_REASON_SOURCE_NOT_ALLOWED),
        ("https://127.0.0.1/a", R.ERROR_REASON_SOURCE_NOT_ALLOWED),
        ("https://localhost/a", R.ERROR_REASON_SOURCE_NOT_ALLOWED),
        ("file:///etc", R.ERROR_REASON_SOURCE_NOT_ALLOWED),
        ("file://host/etc", R.ERROR_REASON_INVALID_REQUEST),
        ("/etc", R.ERROR_REASON_SOURCE_NOT_ALLOWED),
        ("/a\0b", R.ERROR_REASON_INVALID_REQUEST),
    ],
)
def test_addresses_that_are_refused(url, reason):
    with pytest.raises(SluiceError) as failure:
        policy().check(source_of(url), "local")
    assert failure.value.reason == reason
    assert "secret" not in failure.value.message


def test_private_hosts_are_allowed_by_name_alone():
    found = policy(private_hosts=["localhost"]).check(source_of("https://localhost:8443/a/b.git"), "local")
    assert isinstance(found, AllowedRepository)
    assert (found.host, found.port) == ("localhost", 8443)
    assert found.addresses


def test_an_allowed_host_with_a_private_address_is_refused(monkeypatch):
    def lookup(host, port, **_):
        return [(2, 1, 6, "", ("93.184.216.34", port)), (2, 1, 6, "", ("10.0.0.1", port))]

    monkeypatch.setattr("socket.getaddrinfo", lookup)
    with pytest.raises(SluiceError) as failure:
        policy().check(source_of("https://git.example.org/a"), "local")
    assert failure.value.metadata == {"rule": "public_addresses"}


@pytest.mark.parametrize("revision", ["--upload-pack=x", "a..b", "a:b", "a b", "^main", "HEAD~1", "a\nb"])
def test_revisions_that_are_no_names_are_refused(tmp_path, revision):
    with pytest.raises(SluiceError) as failure:
        policy(roots=[tmp_path]).check(source_of(str(tmp_path), revision=revision), "local")
    assert failure.value.violations[0].field == "source.git.revision"
