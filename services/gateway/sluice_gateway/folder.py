"""The folder that a gateway keeps what is its own in."""

import tempfile
from pathlib import Path

from sluice_kit.server import BindError


def usable(folder: Path) -> Path:
    """Returns the folder, made if it was not there. Raises BindError where nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        # One line that says which folder: a volume that is not there, or not this user's, is no defect.
        raise BindError(f"cannot keep anything in {folder}: {error.strerror}") from None
    return folder
