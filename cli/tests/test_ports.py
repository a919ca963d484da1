"""Which ports a mesh takes for itself."""

import socket
from pathlib import Path

import pytest

from sluice_cli.supervisor import ports
from sluice_cli.supervisor.ports import free_port


@pytest.fixture
def given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the system says of the ports that it gives to whoever asks for any."""
    file = tmp_path / "range"
    monkeypatch.setattr(ports, "_RANGE", file)
    return file


@pytest.mark.parametrize("said", ["10050 60999\n", "nothing\n", None])
def test_a_port_is_none_that_the_system_gives_away(given_away: Path, said: str | None) -> None:
    if said is not None:
        given_away.write_text(said, encoding="ascii")
    limit = 10_050 if said is not None and said[0] == "1" else 32_768
    assert all(10_000 <= free_port("127.0.0.1") < limit for _ in range(200))


def test_what_is_taken_is_passed_over(given_away: Path) -> None:
    given_away.write_text("10002 60999\n", encoding="ascii")
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", 10_000))
            other.listen()
        except OSError:
            pass  # then somebody else has it, which does as well
        assert {free_port("127.0.0.1") for _ in range(20)} & {10_000} == set()


def test_where_there_is_no_other_the_system_chooses(given_away: Path) -> None:
    given_away.write_text("10000 60999\n", encoding="ascii")
    assert free_port("127.0.0.1") > 0
