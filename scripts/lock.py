"""Write requirements/*.lock, or prove offline that they still fit (`--check`).

Every lock holds third-party packages only, with hashes, for every platform and every Python from 3.11 on. `dev.lock` is
compiled first, over all members and tools; the lock of each image is compiled against it, so one package has one version
in the whole house. What an image's lock holds is what runs: members are built with `build.lock`, and installed after the
image's lock with `--no-deps`. An adapter's image has the lock `providers-<adapter>` with the extra of its vendor alone, or
`providers-base` if it needs none.

    .venv/bin/python scripts/lock.py                          write the locks, keeping every pin that still fits
    .venv/bin/python scripts/lock.py --upgrade                write them with the newest versions
    .venv/bin/python scripts/lock.py --upgrade-package NAME   ... of one package only (may be repeated)
    .venv/bin/python scripts/lock.py --check                  no network: is every requirement met by a pin?
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
OLDEST_PYTHON = "3.11"

Pins: TypeAlias = dict[str, list[tuple[Version, Requirement]]]


@dataclass(frozen=True)
class Lock:
    """One lock file: what it is compiled from."""

    name: str
    members: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    extras: tuple[str, ...] | None = ()
    """Extras of its members that it has, beside those that members ask of each other; None: all there are."""
    constrained: bool = True
    bare: bool = False
    """Only what its inputs name, and nothing that those say they need."""

    @property
    def path(self) -> Path:
        return REQUIREMENTS / f"{self.name}.lock"


PROTOS, KIT, CLIENT = "gen/python", "libs/kit", "clients/python"
GATEWAY, PROVIDERS, RETRIEVAL, CLI = "services/gateway", "services/providers", "services/retrieval", "cli"

LOCKS = (
    Lock("bootstrap", (), ("bootstrap.in",), constrained=False),
    Lock("dev", (PROTOS, KIT, CLIENT, GATEWAY, PROVIDERS, RETRIEVAL, CLI), ("dev.in",), extras=None, constrained=False),
    Lock("build", (), ("build.in",)),
    Lock("gateway", (PROTOS, KIT, GATEWAY), extras=("postgres",)),
    Lock("providers", (PROTOS, KIT, PROVIDERS), extras=("anthropic", "azure", "bedrock", "google", "openai")),
    Lock("providers-base", (PROTOS, KIT, PROVIDERS)),
    Lock("providers-anthropic", (PROTOS, KIT, PROVIDERS), extras=("anthropic",)),
    Lock("providers-azure", (PROTOS, KIT, PROVIDERS), extras=("azure", "openai")),
    Lock("providers-bedrock", (PROTOS, KIT, PROVIDERS), extras=("bedrock",)),
    Lock("providers-google", (PROTOS, KIT, PROVIDERS), extras=("google",)),
    Lock("providers-openai", (PROTOS, KIT, PROVIDERS), extras=("openai",)),
    Lock("retrieval", (PROTOS, KIT, CLIENT, RETRIEVAL), extras=("postgres",)),
    Lock("cli", (PROTOS, KIT, CLIENT, CLI)),
    Lock("mesh", (PROTOS, KIT, CLIENT, GATEWAY, PROVIDERS, RETRIEVAL, CLI), extras=None),
    Lock("minilm", (), ("minilm.in",), bare=True),
)


@dataclass(frozen=True)
class Member:
    """What a member's pyproject.toml says about its requirements."""

    name: str
    requirements: tuple[Requirement, ...]
    extras: Mapping[str, tuple[Requirement, ...]]


def workspace_members() -> tuple[str, ...]:
    """The folders of the uv workspace, as the root's pyproject.toml lists them."""
    root = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return tuple(root["tool"]["uv"]["workspace"]["members"])


def read_member(folder: str) -> Member:
    project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    return Member(
        name=canonicalize_name(project["name"]),
        requirements=tuple(Requirement(line) for line in project.get("dependencies", ())),
        extras={extra: tuple(Requirement(line) for line in lines) for extra, lines in extras.items()},
    )


def read_input(path: Path) -> Iterator[Requirement]:
    """The requirements of a `.in` file, with the files it includes."""
    for raw in path.read_text(encoding="utf-8").splitlines():
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        if line.startswith("-r "):
            yield from read_input(path.parent / line.removeprefix("-r ").strip())
        elif line:
            yield Requirement(line)


def read_pins(path: Path) -> Pins:
    """The pins of a lock by canonical name: a package may be pinned twice under markers that exclude each other."""
    pins: Pins = {}
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for raw in text.splitlines():
        line = raw.split(" --hash=", 1)[0].strip()
        if not line or line.startswith(("#", "-")):
            continue  # options do not belong in a lock: unhashed_or_located() names them
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        pins.setdefault(canonicalize_name(requirement.name), []).append((Version(specifier.version), requirement))
    return pins


def compile_lock(lock: Lock, members: tuple[str, ...], options: list[str], output: Path) -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise SystemExit("lock: uv is missing; run `make setup` first")
    command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--python-version", OLDEST_PYTHON, "--output-file", str(output)]
    for member in members:
        command += ["--no-emit-package", read_member(member).name]
    command += options
    if lock.members and lock.extras is None:
        command.append("--all-extras")
    for extra in lock.extras or ():
        command += ["--extra", extra]
    if lock.bare:
        command.append("--no-deps")
    command += [f"requirements/{name}" for name in lock.inputs]
    command += [f"{member}/pyproject.toml" for member in lock.members]
    # A folder of wheels that pip is told to look into would leave its own builds and hashes in a lock meant for everyone.
    environment = {key: value for key, value in os.environ.items() if key not in {"PIP_FIND_LINKS", "UV_FIND_LINKS"}}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def write(upgrade: list[str]) -> None:
    """Compile every lock beside the old ones, then put them in place: a failure half-way leaves what was there."""
    members = workspace_members()
    with tempfile.TemporaryDirectory(prefix=".locks-", dir=REQUIREMENTS) as scratch:
        fresh: dict[str, Path] = {}
        for lock in LOCKS:
            output = fresh[lock.name] = Path(scratch) / lock.path.name
            if lock.constrained:
                compile_lock(lock, members, ["-c", str(fresh["dev"])], output)
                continue
            if lock.path.exists():
                shutil.copyfile(lock.path, output)  # uv keeps the pins of the file it writes to, unless told to upgrade
            compile_lock(lock, members, upgrade, output)
        for lock in LOCKS:
            fresh[lock.name].replace(lock.path)
            print(f"lock: requirements/{lock.path.name}: {len(read_pins(lock.path))} packages")


def marker_environment(extra: str = "") -> dict[str, str]:
    """What markers are judged by: this platform. Without an extra, markers that ask for one do not apply."""
    return {key: str(value) for key, value in default_environment().items()} | {"extra": extra}


def unmet(requirement: Requirement, pins: Pins) -> str | None:
    """Why no pin meets a requirement that applies on the running platform, or None if one does."""
    environment = marker_environment()
    candidates = pins.get(canonicalize_name(requirement.name), [])
    here = [version for version, pin in candidates if pin.marker is None or pin.marker.evaluate(environment)]
    if not here:
        return f"{requirement} has no pin"
    if not any(requirement.specifier.contains(version, prereleases=True) for version in here):
        return f"{requirement} is not met by the pin {', '.join(map(str, here))}"
    return None


def unmet_below(roots: list[Requirement], pins: Pins, own: set[str]) -> Iterator[str]:
    """What packages of a lock need and the lock does not give, as far as they are installed here at the pinned version."""
    queue = [(root, "") for root in roots if canonicalize_name(root.name) not in own]
    seen: set[tuple[str, str]] = set()
    while queue:
        requirement, needed_by = queue.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate(marker_environment()):
            continue
        reason = unmet(requirement, pins)
        if reason is not None:
            yield reason + needed_by
            continue
        for extra in ("", *sorted(requirement.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                installed = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                continue  # its marker does not apply here, or the environment is older than the lock
            if Version(installed.version) not in {version for version, _ in pins[name]}:
                continue
            environment = marker_environment(extra)
            for line in installed.requires or ():
                below = Requirement(line)
                if below.marker is None or below.marker.evaluate(environment):
                    below.marker = None
                    queue.append((below, f", which {name} needs"))


def extras_asked(members: list[Member]) -> dict[str, set[str]]:
    """Which extras of which distribution the members' own requirements ask for: `sluice-kit[telemetry]`."""
    asked: dict[str, set[str]] = {}
    for member in members:
        for requirement in member.requirements:
            asked.setdefault(canonicalize_name(requirement.name), set()).update(requirement.extras)
    return asked


def problems() -> list[str]:
    """What is wrong with the locks, found without a network."""
    folders = workspace_members()
    members = {folder: read_member(folder) for folder in folders}
    own = {member.name for member in members.values()}
    found = []
    dev = next(lock for lock in LOCKS if lock.name == "dev")
    if set(dev.members) != set(folders):
        found.append("scripts/lock.py: the members of the dev lock are not those of the workspace")
    missing = [lock for lock in LOCKS if not lock.path.is_file()]
    if missing:
        return [*found, *(f"requirements/{lock.path.name} is missing" for lock in missing)]
    dev_pins = read_pins(dev.path)
    for lock in LOCKS:
        label = f"requirements/{lock.path.name}"
        pins = read_pins(lock.path)
        wanted = [requirement for name in lock.inputs for requirement in read_input(REQUIREMENTS / name)]
        inside = {members[folder].name for folder in lock.members}
        asked = extras_asked([members[folder] for folder in lock.members])
        known = {extra for folder in lock.members for extra in members[folder].extras}
        found += [f"{label}: no member has the extra {extra}" for extra in lock.extras or () if extra not in known]
        for folder in lock.members:
            member = members[folder]
            wanted += member.requirements
            wanted += [
                requirement
                for extra, requirements in member.extras.items()
                if lock.extras is None or extra in lock.extras or extra in asked.get(member.name, ())
                for requirement in requirements
            ]
        outside = {canonicalize_name(requirement.name) for requirement in wanted} & own - inside
        found += [
            f"{label}: needs the member {name}, which scripts/lock.py does not give it" for name in sorted(outside)
        ]
        if lock.bare:
            found += [f"{label}: {reason}" for one in wanted if (reason := unmet(one, pins)) is not None]
        else:
            found += [f"{label}: {reason}" for reason in unmet_below(wanted, pins, own)]
        for pinned, entries in pins.items():
            if pinned in own:
                found.append(f"{label}: holds the member {pinned}; members are installed from the tree")
            if lock.bare and pinned not in dev_pins:
                continue
            dev_versions = {version for version, _ in dev_pins.get(pinned, [])}
            differing = {version for version, _ in entries} - dev_versions
            if differing:
                versions = ", ".join(map(str, sorted(differing)))
                found.append(f"{label}: {pinned} {versions} is not what dev.lock pins")
        found += [f"{label}: {line}" for line in unhashed_or_located(lock.path)]
    return found


def unhashed_or_located(path: Path) -> Iterator[str]:
    """Pins without a hash, and anything that names a host or a path."""
    text = path.read_text(encoding="utf-8")
    for raw in text.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if " --hash=sha256:" not in line:
            yield f"no hash: {line}"
    for number, line in enumerate(text.splitlines(), 1):
        if "://" in line or line.lstrip().startswith(("-e", "--index", "--extra-index", "--find-links", "/", ".", "#")):
            yield f"line {number} names an address or a path, or is a comment: {line.strip()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="prove without a network that the locks fit")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    parser.add_argument("--upgrade-package", action="append", default=[], metavar="NAME", help="take the newest of one")
    arguments = parser.parse_args()
    if not arguments.check:
        upgrade = ["--upgrade"] if arguments.upgrade else []
        for package in arguments.upgrade_package:
            upgrade += ["--upgrade-package", package]
        write(upgrade)
    found = problems()
    for problem in found:
        print(f"lock: {problem}", file=sys.stderr)
    if found:
        print("lock: run `make lock` and commit requirements/", file=sys.stderr)
        return 1
    print(f"lock: {len(LOCKS)} locks meet every requirement of every member")
    return 0


if __name__ == "__main__":
    sys.exit(main())
