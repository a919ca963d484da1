"""A child process, as its parent sees it."""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import uuid
from typing import Final, TypeVar

import msgspec

from sluice.error.v1.error_reason_pb2 import ErrorReason
from sluice_kit.errors import SluiceError, internal_error, make_error
from sluice_retrieval.children import wire
from sluice_retrieval.children.runtime import Failure

log = logging.getLogger(__name__)

# Children need to find Python, libraries, git and a place for temporary files; credentials are none of their business.
_ENVIRONMENT: Final = """
    PATH PYTHONPATH PYTHONHOME VIRTUAL_ENV LANG LC_ALL LC_CTYPE HOME TMPDIR TEMP TMP SYSTEMROOT LD_LIBRARY_PATH
    SSL_CERT_FILE SSL_CERT_DIR
"""
_PASSED_ON: Final = frozenset(_ENVIRONMENT.split())
_END_SECONDS: Final = 2.0
S = TypeVar("S", bound=msgspec.Struct)


class ChildDied(Exception):
    """The child ended while, or before, a question was answered. It may be started again."""


class Child:
    """A process of our own that answers questions, in order. Start it from the event loop's thread.

    It ends with its parent, however that ends, and is killed with everything it started.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._number = 0
        self._encoder = msgspec.msgpack.Encoder()

    @property
    def pid(self) -> int | None:
        """The process's id while it is thought to run."""
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether questions can be asked."""
        return self._reader is not None and not self._reader.done()

    async def start(self) -> None:
        """Starts the process."""
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {name: value for name, value in os.environ.items() if name in _PASSED_ON}
            # In this thread on purpose: the system kills a child when the thread that started it ends.
            self._process = subprocess.Popen(  # noqa: ASYNC220  # takes about a millisecond
                [sys.executable, "-m", "sluice_retrieval.children", self._kind, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._reader = asyncio.create_task(self._read(reader))

    async def ask(self, question: msgspec.Struct, answer: type[S]) -> S:
        """Asks and waits for the answer.

        Raises ChildDied, the SluiceError that the child raised, or InternalError for a defect in it (which is logged).
        """
        if self._writer is None or not self.running:
            raise ChildDied(self._kind)
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._writer.write(wire.frame(number, wire.QUESTION, self._encoder.encode(question)))
            with contextlib.suppress(ConnectionError):  # the reader notices, and fails the future
                await self._writer.drain()
            kind, body = await future
        finally:
            self._waiting.pop(number, None)
        if kind == wire.ANSWER:
            return msgspec.msgpack.decode(body, type=answer)
        raise self._failure(msgspec.msgpack.decode(body, type=Failure))

    def _failure(self, failure: Failure) -> SluiceError:
        if failure.reason:
            reason = ErrorReason.Value(f"ERROR_REASON_{failure.reason}")
            return make_error(reason, failure.message, metadata=failure.metadata)
        error_id = uuid.uuid4().hex[:12]
        log.error("a child failed", extra={"child": self._kind, "error_id": error_id, "trace": failure.message})
        return internal_error(error_id)

    async def close(self) -> None:
        """Ends the process and waits for its end."""
        if self._process is None:
            return
        if self._writer is not None:
            self._writer.close()
        await self._reap(_END_SECONDS)
        if self._reader is not None:
            await asyncio.wait((self._reader,))

    def kill(self) -> None:
        """Ends the process, and what it started, at once; `close` is still due."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)

    async def _reap(self, patience: float) -> None:
        process = self._process
        assert process is not None
        try:
            await asyncio.to_thread(process.wait, patience)
        except subprocess.TimeoutExpired:
            self.kill()
            await asyncio.to_thread(process.wait)
        self._process = None

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                head = await reader.readexactly(wire.HEADER.size)
                number, kind, length = wire.HEADER.unpack(head)
                body = await reader.readexactly(length)
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result((kind, body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the end of the child, expected or not; whoever waits is told below
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ChildDied(self._kind))
