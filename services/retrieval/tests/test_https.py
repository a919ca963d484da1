"""Repositories over https, served by git's own back end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice.retrieval.v1 import corpus_pb2
from sluice.task.v1 import task_service_pb2

from .git_https import GitHandler, serving


@pytest.fixture
def https(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of a server, and its certificate."""
    with serving(tmp_path) as found:
        yield found


@pytest.fixture
def served(https, source, git, tmp_path):
    git(source, "init", "-q", "-b", "main")
    git(source, "add", "-A")
    git(source, "commit", "-qm", "one")
    git(source, "clone", "-q", "--bare", str(source), str(tmp_path / "served" / "tea.git"))
    return https


async def test_a_repository_over_https(start, served, source, git):
    port, certificate = served
    async with start({"git": {"private_hosts": ["localhost"], "ca_file": str(certificate)}}) as client:
        result = await client.index(corpus_pb2.GitSource(url=f"https://localhost:{port}/tea.git"))
        assert result.corpus.revision == git(source, "rev-parse", "HEAD")
        assert result.files == 4
        named = corpus_pb2.GitSource(url=f"https://localhost:{port}/tea.git", revision=result.corpus.revision)
        assert (await client.index(named)).files == 4


@pytest.mark.parametrize("case", ["redirect", "certificate", "nothing"])
async def test_what_is_not_as_it_should_be_is_refused(start, served, case):
    port, certificate = served
    settings = {"private_hosts": ["localhost"], "ca_file": str(certificate)}
    path = "tea.git"
    if case == "redirect":
        path = "moved/tea.git"
    elif case == "certificate":
        del settings["ca_file"]
    else:
        path = "no.git"
    async with start({"git": settings}) as client:
        await client.create()
        task = await client.ended(
            (await client.start_index(corpus_pb2.GitSource(url=f"https://localhost:{port}/{path}"))).name
        )
        assert task.state == task_service_pb2.TASK_STATE_FAILED
        assert "SOURCE_UNREADABLE" in str(task.error)
        assert all(asked.startswith(f"/{path}/") for asked in GitHandler.asked)
        assert bool(GitHandler.asked) == (case != "certificate")
