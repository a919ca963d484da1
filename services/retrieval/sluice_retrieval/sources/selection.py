"""Which entries of a source count, told from their names: the same for a folder and for a repository."""

from typing import Final

from sluice_retrieval.sources.classify import HIDDEN_FOLDERS, VENDORED_FOLDERS, is_bad_name, skip_by_name
from sluice_retrieval.sources.found import exceeded
from sluice_retrieval.sources.patterns import IgnoreRules, PathFilter

IGNORE_FILE: Final = ".gitignore"
IGNORE_FILE_BYTES: Final = 256 * 1024
"""Size of a .gitignore that is read; with a larger one, it would not be known what is to be left out."""


def skip_folder(path: str, name: str, rules: IgnoreRules, filters: PathFilter) -> str | None:
    """Returns why nothing below a folder counts, or None. `path` is that of the folder, `name` its last part."""
    if is_bad_name(name):
        return "bad_name"
    if name in HIDDEN_FOLDERS:
        return "hidden"
    if name in VENDORED_FOLDERS and not filters.names(name):
        return "vendored"
    if rules.ignores(path, is_folder=True):
        return "ignored"
    return "excluded" if filters.skips_folder(path) else None


def skip_file(path: str, name: str, rules: IgnoreRules, filters: PathFilter) -> str | None:
    """Returns why a file does not count, as far as its path tells, or None."""
    if is_bad_name(name):
        return "bad_name"
    if name == ".git":  # of a worktree or a submodule: it says where the rest lies
        return "hidden"
    if rules.ignores(path, is_folder=False):
        return "ignored"
    if not filters.takes(path):
        return "excluded"
    return skip_by_name(path)


def ignore_file_too_large() -> Exception:
    """Returns the failure for a .gitignore that is not read."""
    return exceeded("max_ignore_bytes", f"a .gitignore of more than {IGNORE_FILE_BYTES} bytes")
