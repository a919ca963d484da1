"""A file for one token: only its owner may read it, and a reader sees the old one or the new one, never half of it.

Several processes of an integration may share the file. Each looks at its times whenever it needs the token, so a
sign-in in one of them serves all.
"""

import os
import shlex
import stat
import tempfile
from pathlib import Path
from typing import Final

import msgspec

_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_OTHERS: Final = 0o077
_MAX_BYTES: Final = 64 * 1024
_POSIX: Final = os.name == "posix"
"""Elsewhere rights are not bits of a mode."""


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """What a sign-in yielded."""

    token: str
    """The vendor's long-lived token. It is never printed."""
    host: str
    """Whose token it is: it goes to no other host."""
    account: str = ""
    """The account at the vendor, for people."""

    def __repr__(self) -> str:
        return f"Credential(host={self.host!r})"


class TokenFileError(Exception):
    """The file cannot be used. The message names it, and says what to do; it holds nothing of its contents."""


class TokenFile:
    """The file of one integration."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] | None = None
        self._known: Credential | TokenFileError | None = None

    def read(self) -> Credential | None:
        """Returns the credential; None if nobody signed in. Reads the file only if it changed. Raises TokenFileError."""
        try:
            now = self.path.stat()
        except FileNotFoundError:
            self._seen = self._known = None
            return None
        except OSError as error:
            raise TokenFileError(f"{self.path} cannot be read: {error.strerror}") from None
        seen = (now.st_mtime_ns, now.st_ctime_ns, now.st_ino, now.st_size, now.st_mode)
        if seen != self._seen:
            try:
                self._known = self._load()
            except TokenFileError as error:
                self._known = error
            self._seen = seen
        if isinstance(self._known, TokenFileError):
            raise self._known
        return self._known

    def prepare(self) -> None:
        """Makes the folder and checks that a token can be kept there. Raises TokenFileError.

        Called before a person is asked for consent, which would be in vain otherwise.
        """
        folder = self.path.parent
        try:
            missing = [folder, *folder.parents]
            for part in reversed([part for part in missing if not part.exists()]):
                part.mkdir(_FOLDER_MODE, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise TokenFileError(f"no token can be kept in {folder}: {error.strerror}") from None

    def write(self, credential: Credential) -> None:
        """Replaces the file at once, or leaves it as it was. Raises TokenFileError."""
        self.prepare()
        folder = self.path.parent
        temporary: str | None = None
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=folder)
            with os.fdopen(handle, "wb") as file:
                if _POSIX:
                    os.fchmod(file.fileno(), _FILE_MODE)
                file.write(msgspec.json.encode(credential) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path)
            temporary = None
            if _POSIX:
                _sync(folder)
        except OSError as error:
            raise TokenFileError(f"the token could not be kept in {self.path}: {error.strerror}") from None
        finally:
            if temporary is not None:
                Path(temporary).unlink()

    def _load(self) -> Credential | None:
        try:
            with self.path.open("rb") as file:
                # Of what was opened, not of what has that name by now.
                mode = os.fstat(file.fileno()).st_mode
                if not stat.S_ISREG(mode):
                    raise TokenFileError(f"{self.path} is not a file")
                if _POSIX and mode & _OTHERS:
                    raise TokenFileError(
                        f"others may read {self.path} (mode {stat.S_IMODE(mode):04o}); run `chmod 600 {shlex.quote(str(self.path))}`"
                    )
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TokenFileError(f"{self.path} cannot be read: {error.strerror}") from None
        try:
            credential = msgspec.json.decode(data, type=Credential)
        except (msgspec.DecodeError, UnicodeDecodeError):
            credential = None
        if credential is None or not _is_token(credential.token):
            raise TokenFileError(f"{self.path} is damaged; remove it or sign in again")
        return credential


def _is_token(text: str) -> bool:
    """Tells whether a text can stand in a header."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def _sync(folder: Path) -> None:
    """Makes the new name in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
