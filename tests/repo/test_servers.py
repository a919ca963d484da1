"""Where the tests' Redis and Postgres come from, and what becomes of them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.servers.kept import Kept

from .house import ROOT, load_script

# As apt-get and dpkg do it, as far as they are asked: the lists are there only after `update`.
APT = """#!/bin/sh
case "$*" in
*" update") : > {folder}/lists ;;
*--simulate*)
  [ -e {folder}/lists ] || {{ echo "E: Unable to locate package redis-server" >&2; exit 100; }}
  echo "Inst libc6 (2.36)"; echo "Inst liblzf1 (3.6)"; echo "Inst redis-server (7.0)" ;;
*" download "*) for name; do :; done; echo "$*" > {folder}/asked; : > "$name.deb" ;;
esac
"""
DPKG = """#!/bin/sh
mkdir -p "$3/usr/bin" "$3/usr/lib/x86_64-linux-gnu"
: > "$3/usr/bin/{program}"; : > "$3/usr/lib/x86_64-linux-gnu/liblzf.so.1"
"""


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with an empty PATH and a cache of its own."""
    script = load_script("servers")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(script, "SERVERS", (script.Server("redis", "redis-server", ("no-such-redis",), ("usr/bin",)),))
    return script


def tools(folder: Path, program: str) -> None:
    """Puts an apt-get and a dpkg on PATH."""
    for name, text in {"apt-get": APT, "dpkg": DPKG}.items():
        tool = folder / "bin" / name
        tool.write_text(text.format(folder=folder, program=program).replace("mkdir", "/bin/mkdir"), encoding="utf-8")
        tool.chmod(0o755)


def test_packages_are_unpacked_with_the_libraries_that_they_need(
    servers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools(tmp_path, "no-such-redis")
    assert servers.main(["--fetch"]) == 0
    assert capsys.readouterr().out == "servers: redis of Debian's packages, in cache/redis/usr/bin\n"
    found = servers.find(servers.SERVERS[0])
    assert (found.folder / "no-such-redis").is_file()
    assert found.environment == {"LD_LIBRARY_PATH": str(tmp_path / "cache" / "redis" / "usr/lib/x86_64-linux-gnu")}
    assert (tmp_path / "asked").read_text(encoding="utf-8").split()[-2:] == ["liblzf1", "redis-server"]
    (tmp_path / "bin" / "apt-get").unlink()
    assert servers.main(["--fetch"]) == 0  # it is there: nothing is asked


@pytest.mark.parametrize(
    ("program", "why"), [(None, "this system has no apt-get"), ("another", "do not hold no-such-redis")]
)
def test_what_cannot_be_fetched_is_said_and_fails_nothing(
    servers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], program: str | None, why: str
) -> None:
    if program is not None:
        tools(tmp_path, program)
    assert servers.main(["--fetch"]) == 0
    assert why in capsys.readouterr().out
    assert why in servers.why_not(servers.SERVERS[0])
    assert servers.find(servers.SERVERS[0]) is None
    assert not list((tmp_path / "cache").glob("redis.new*"))


def test_what_apt_says_is_passed_on(servers: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tools(tmp_path, "no-such-redis")
    (tmp_path / "bin" / "apt-get").write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n", encoding="utf-8")
    assert servers.main(["--fetch"]) == 0
    assert "tests that need it are skipped: apt-get failed: E: no network" in capsys.readouterr().out


def test_check_fetches_before_it_tests() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ncheck: setup", 1)[1].split("\n\n", 1)[0]
    assert 0 < recipe.index("servers.py --fetch") < recipe.index("directory test")


def test_a_server_ends_with_the_tests_even_if_they_are_killed(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from tests.servers.kept import Kept
kept = Kept(["sleep", "600"], Path(sys.argv[1]), {})
print(kept.pid, flush=True)
time.sleep(600)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, stdout=subprocess.PIPE
    ) as tests:
        assert tests.stdout is not None
        server = os.pidfd_open(int(tests.stdout.readline()))
        try:
            tests.send_signal(signal.SIGKILL)
            ended = select.poll()
            ended.register(server, select.POLLIN)
            assert ended.poll(30_000)  # milliseconds; it is no child of this process, so it cannot be waited for
        finally:
            os.close(server)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    kept = Kept(["sh", "-c", "echo no room; exit 3"], tmp_path, {})
    with pytest.raises(RuntimeError, match="no room"):
        kept.wait_for(lambda: False)
