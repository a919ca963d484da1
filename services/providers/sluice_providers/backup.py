"""What a backup takes of the adapters' folder: what people signed in with."""

import shutil
from pathlib import Path

from sluice_kit.backup import State
from sluice_kit.config import ConfigDocument


def state(document: ConfigDocument) -> State:
    """Returns the state of the adapters of a configuration. Raises ConfigError."""
    folder = document.state_dir() / "providers"
    return State("providers", folder, lambda target: _copy(folder, target), lambda: any(folder.glob("*/*")))


def _copy(folder: Path, target: Path) -> None:
    for path in folder.glob("*/*"):
        # Tokens are put in place whole, so a copy is whole, too. Locks and drafts belong to a process.
        if path.is_file() and not path.name.startswith(".") and path.suffix not in (".lock", ".new"):
            (target / path.parent.name).mkdir(exist_ok=True, mode=0o700)
            shutil.copy2(path, target / path.parent.name / path.name)
