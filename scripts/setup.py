"""Make the development environment: .venv with every pinned package and the members of this repository.

Standard library only, because nothing is installed yet. Running it again does nothing, in well under a second, unless a
lock, a member's pyproject.toml or the environment itself changed. Third-party packages come from requirements/dev.lock
and are checked against its hashes; the members are installed editable, so that the tree is what runs.
"""

import os
import shutil
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this file is what tells that Python is too old
    # `make` may have found an old python3 while a newer one is installed beside it: go on with that one.
    for minor in (15, 14, 13, 12, 11):
        newer = shutil.which("python3.%d" % minor)  # noqa: UP031 - this line has to parse on old Pythons
        if newer:
            os.execv(newer, [newer, *sys.argv])  # noqa: S606 - replaces this process on purpose, no shell
    sys.exit(
        "setup: Python 3.11 or newer is needed, this is %s (%s).\n"  # noqa: UP031 - as above
        "setup: install one and run `make setup PYTHON=/path/to/python3.12`." % (sys.version.split()[0], sys.executable)
    )

import hashlib
import importlib.util
import json
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "sluice-setup.json"
BOOTSTRAP_LOCK = ROOT / "requirements" / "bootstrap.lock"
DEV_LOCK = ROOT / "requirements" / "dev.lock"
OPTIONAL = ("minilm",)
"""Locks that are installed on top when asked for by name: `--with minilm`."""


def members() -> list[str]:
    """The folders of the members, as the workspace lists them."""
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(root["tool"]["uv"]["workspace"]["members"])


def fingerprint(folders: list[str]) -> dict[str, str]:
    """What the environment is made from. A difference in any value means work to do."""
    digest = hashlib.sha256()
    for path in [BOOTSTRAP_LOCK, DEV_LOCK, *(ROOT / folder / "pyproject.toml" for folder in folders)]:
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    digest.update(Path(__file__).read_bytes())
    return {"inputs": digest.hexdigest(), "root": str(ROOT)}


def read_stamp() -> dict[str, str]:
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # absent or half-written: the environment counts as not set up
    return stamp if isinstance(stamp, dict) else {}


def usable() -> bool:
    """Whether .venv holds an interpreter that starts: it does not after a Python was removed or upgraded in place."""
    if not PYTHON.exists():
        return False
    probe = "import pip, sys; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([str(PYTHON), "-I", "-c", probe], check=False, capture_output=True).returncode == 0


@contextmanager
def only_one() -> Iterator[None]:
    """Two setups at once would write the same folder: the second one waits for the first."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system; nothing here starts two setups by itself
        yield
        return
    with (ROOT / ".setup.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def step(text: str, action: Callable[[], None]) -> None:
    print("setup: " + text, flush=True)
    started = time.monotonic()
    action()
    print(f"setup:   done in {time.monotonic() - started:.1f} s", flush=True)


def run(arguments: list[str], environment: dict[str, str], hint: str) -> None:
    result = subprocess.run(arguments, cwd=ROOT, env=environment, check=False, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        sys.exit(f"setup: that failed (exit status {result.returncode}). {hint}")


def check_tools() -> None:
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"setup: this Python ({sys.executable}) lacks the module {' and '.join(missing)}.\n"
            "setup: on Debian or Ubuntu install the package python3-venv, then run `make setup` again."
        )
    if shutil.which("git") is None:
        print("setup: note: git is not installed. Indexing repositories by URL needs it, and so do some tests.")


def uv_environment() -> dict[str, str]:
    """The environment for uv, which does not read pip's configuration: a mirror or certificate set for pip counts too."""
    environment = dict(os.environ, VIRTUAL_ENV=str(VENV))
    listed = subprocess.run(
        [str(PYTHON), "-m", "pip", "config", "list"], check=False, capture_output=True, text=True, env=environment
    )
    settings = {}
    for line in listed.stdout.splitlines():
        name, separator, value = line.partition("=")
        if separator:
            settings[name.strip().split(".")[-1]] = value.strip().strip("'\"")
    if "index-url" in settings and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & set(environment):
        environment["UV_DEFAULT_INDEX"] = settings["index-url"]
    if "cert" in settings:
        environment.setdefault("SSL_CERT_FILE", settings["cert"])
    return environment


def create_venv() -> None:
    # -I: neither the user's site-packages nor PYTHONPATH take part in making the environment.
    run([sys.executable, "-I", "-m", "venv", "--clear", str(VENV)], dict(os.environ), "Is the disk full or read-only?")


def install_optional(name: str) -> None:
    """Installs an optional lock once; its packages only, because they say to need more than is used of them."""
    lock = ROOT / "requirements" / f"{name}.lock"
    stamp = VENV / f"sluice-{name}.sha256"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return
    environment = uv_environment()
    environment.pop("PYTHONPATH", None)
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON), "--no-config", "--quiet"]
    network = "If it could not reach the package index, check the network or pip's index and proxy settings."
    step(
        f"installing {name} from requirements/{name}.lock",
        lambda: run([*uv, "--no-deps", "--require-hashes", "-r", str(lock)], environment, network),
    )
    stamp.write_text(digest, encoding="utf-8")


def install(folders: list[str]) -> None:
    plain = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    network = "If it could not reach the package index, check the network or pip's index and proxy settings."
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    step(
        "installing uv, the installer, from requirements/bootstrap.lock",
        lambda: run([*pip, "--require-hashes", "-r", str(BOOTSTRAP_LOCK)], plain, network),
    )
    environment = uv_environment()
    environment.pop("PYTHONPATH", None)
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON), "--no-config"]
    step(
        "installing the pinned packages from requirements/dev.lock",
        lambda: run([*uv, "--quiet", "--require-hashes", "-r", str(DEV_LOCK)], environment, network),
    )
    editables = [word for folder in folders for word in ("-e", str(ROOT / folder))]
    step(
        "installing this repository's members: " + ", ".join(folders),
        lambda: run(
            [*uv, "--quiet", "--no-build-isolation", "--no-deps", *editables], environment, "See the message above."
        ),
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Makes .venv, and installs the optional locks that `--with NAME ...` asks for."""
    wanted = arguments[1:] if arguments[:1] == ["--with"] else []
    unknown = [name for name in wanted if name not in OPTIONAL]
    if unknown or (arguments and not wanted):
        sys.exit(f"setup: usage: setup.py [--with NAME ...]; names: {', '.join(OPTIONAL)}")
    make_environment()
    with only_one():
        for name in wanted:
            install_optional(name)


def make_environment() -> None:
    """Makes .venv, or says that it is up to date."""
    started = time.monotonic()
    folders = members()
    if read_stamp() == fingerprint(folders) and PYTHON.exists():
        print("setup: .venv is up to date")
        return
    check_tools()
    with only_one():
        wanted = fingerprint(folders)
        stamp = read_stamp()
        if stamp == wanted and PYTHON.exists():
            print("setup: .venv is up to date (another setup just made it)")
            return
        # Without a stamp it may be half made; and scripts in a venv hold absolute paths, so a moved one is no good either.
        fresh = not usable() or stamp.get("root") != str(ROOT)
        if fresh:
            step(f"making .venv with Python {sys.version.split()[0]} ({sys.executable})", create_venv)
        STAMP.write_text(json.dumps(wanted | {"inputs": "not yet installed"}), encoding="utf-8")
        install(folders)
        STAMP.write_text(json.dumps(wanted), encoding="utf-8")
    print(f"setup: ready in {time.monotonic() - started:.1f} s. Next: `make help`")


if __name__ == "__main__":
    main(sys.argv[1:])
