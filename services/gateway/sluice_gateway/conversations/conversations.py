"""Conversations: what the gateway keeps of them, and who may go on with one now."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy.orm import Session

from sluice.gateway.v1 import conversation_service_pb2 as pb
from sluice.gateway.v1.chat_service_pb2 import ChatSpec, WhenBusy
from sluice_gateway.catalog import Catalog
from sluice_gateway.config import GatewayConfig
from sluice_gateway.conversations import store, turns
from sluice_gateway.conversations.database import Database
from sluice_gateway.conversations.order import Order
from sluice_gateway.conversations.recall import Recall
from sluice_gateway.conversations.retention import Retention, Swept, sweep
from sluice_gateway.conversations.talk import Talk
from sluice_gateway.integrations import Integrations
from sluice_gateway.records.url import SETTING, is_shared
from sluice_kit.config import ConfigDocument
from sluice_kit.errors import CancelledByOwnerError, SluiceError
from sluice_kit.ids import new_uuid

if TYPE_CHECKING:
    from sluice_gateway.responses.response import Response

log = logging.getLogger(__name__)

T = TypeVar("T")
_NS: Final = 10**9
_RENEWALS: Final = 3
"""A lease is renewed so often within its length."""
_CANCEL_SECONDS: Final = 10.0
"""Longest wait for the answers of a conversation that is being deleted."""


class Conversations:
    """The conversations of one gateway. Make it inside the event loop; all methods are for that loop's thread.

    Times are read from the system's clock, because they are compared over restarts and between gateways.
    """

    def __init__(
        self, document: ConfigDocument, gateway: GatewayConfig, catalog: Catalog, integrations: Integrations
    ) -> None:
        """Raises ConfigError if the database cannot be one."""
        config = gateway.conversations
        folder = document.state_dir() / "gateway"
        age = config.max_age_seconds
        self._retention = Retention(None if age is None else int(age * _NS), config.max_turns)
        self._history_bytes = config.history_bytes
        self._owner = turns.Owner(_instance(folder / "instance"), int(config.lease_seconds * _NS))
        self._renew_seconds = config.lease_seconds / _RENEWALS
        self._database = _database(document, gateway, folder / "conversations.db", self._recover)
        self._recall = Recall(catalog, integrations, config.context_tokens)
        self._order = Order(config.max_waiting)
        self._renewing: asyncio.Task[None] | None = None
        self._cursor = ""
        self.forget: Callable[[Iterable[tuple[str, str]]], None] = lambda _: None
        """Is told the responses, by tenant and name, whose turns were deleted."""

    async def start(self) -> None:
        """Brings the tables up to date and ends what a crash left open. Raises ConfigError for newer tables."""
        await self._database.open()
        if self._database.shared:
            self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def close(self) -> None:
        """Closes the database."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait((self._renewing,))
        await self._database.close()

    def enter(self, tenant: str, spec: ChatSpec) -> Talk:
        """Returns the share that a new answer has in its conversation: its place at the end of those before it.

        Raises CONVERSATION_BUSY if there are any and the request does not want to wait, or if too many wait.
        """
        queue = spec.when_busy == WhenBusy.WHEN_BUSY_QUEUE
        place = self._order.enter(tenant, spec.conversation, queue=queue)
        return Talk(spec, place, self._database, self._recall, self._owner, self._retention, self._history_bytes)

    async def create(self, new: store.NewConversation) -> pb.Conversation:
        """Makes a conversation. Raises ALREADY_EXISTS, REQUEST_ID_REUSED or STORE_UNAVAILABLE."""
        return await self._write(lambda session, now: store.create(session, new, self._retention, now))

    async def get(self, tenant: str, name: str) -> pb.Conversation:
        """Returns a conversation. Raises NotFoundError or STORE_UNAVAILABLE, as the methods below do."""
        return await self._read(lambda session, now: store.get(session, tenant, name, self._retention, now))

    async def page(self, tenant: str, after: str, size: int) -> tuple[list[pb.Conversation], str]:
        """Returns conversations by name, from the one after the id `after` on, and where to go on; empty: nowhere."""
        return await self._read(lambda session, now: store.listed(session, tenant, after, size, self._retention, now))

    async def turns(
        self, tenant: str, name: str, after: int | None, size: int, *, newest_first: bool
    ) -> tuple[list[pb.Turn], int | None]:
        """Returns turns from the one after the number `after` on, and where to go on; None: nowhere."""
        return await self._read(
            lambda session, now: store.turns(
                session, tenant, name, after, size, self._retention, now, newest_first=newest_first
            )
        )

    async def clear(self, tenant: str, name: str) -> pb.Conversation:
        """Deletes the turns of a conversation. Raises CONVERSATION_BUSY while an answer is made in it, or waits."""
        if self._order.is_busy(tenant, name):
            raise store.busy(name, "is busy with an answer; cancel it first")
        conversation, responses = await self._write(lambda session, now: store.clear(session, tenant, name, now))
        self.forget((tenant, response) for response in responses)
        return conversation

    async def delete(self, tenant: str, name: str) -> None:
        """Deletes a conversation with its turns and responses, after it ended those that are being made in it."""
        await self.get(tenant, name)
        self._order.close(tenant, name)
        try:
            places = self._order.places(tenant, name)
            running = [place.response for place in places if place.response is not None]
            await _cancel(running)
            responses = await self._write(lambda session, _: store.remove(session, tenant, name))
        finally:
            self._order.reopen(tenant, name)
        self.forget((tenant, response) for response in {*responses, *(response.name for response in running)})

    async def sweep(self, limit: int) -> bool:
        """Deletes what is no longer kept, of at most `limit` conversations. Returns whether it left work behind."""

        def work(session: Session, now: int) -> Swept:
            turns.lose_expired(session, now)
            return sweep(session, self._retention, now, self._cursor, limit)

        if not self._database.shared:
            # Nobody else makes turns in it, and of its own none is lost while it runs.
            swept = await self._write(lambda session, now: sweep(session, self._retention, now, self._cursor, limit))
        else:
            swept = await self._write(work)
        self._cursor = swept.cursor
        self.forget(swept.responses)
        return swept.full

    async def _read(self, function: Callable[[Session, int], T]) -> T:
        return await self._database.read(lambda session: function(session, time.time_ns()))

    async def _write(self, function: Callable[[Session, int], T]) -> T:
        return await self._database.write(lambda session: function(session, time.time_ns()))

    def _recover(self, session: Session) -> None:
        turns.recover(session, self._owner, time.time_ns(), shared=self._database.shared)

    async def _renew(self) -> None:
        """Says now and then that the turns being made here are, to the other gateways."""
        while True:
            await asyncio.sleep(self._renew_seconds)
            if self._order.idle:
                continue
            try:
                await self._write(lambda session, now: turns.renew(session, self._owner, now))
            except SluiceError as error:
                log.warning("leases of turns are not renewed", extra={"reason": error.reason_name})


async def _cancel(responses: Iterable["Response"]) -> None:
    """Ends answers and waits until they have."""
    waiting = []
    for response in responses:
        response.cancel(CancelledByOwnerError("its conversation was deleted"))
        waiting.append(response.done)
    if waiting:
        await asyncio.wait(waiting, timeout=_CANCEL_SECONDS)


def _database(
    document: ConfigDocument, gateway: GatewayConfig, path: Path, recover: Callable[[Session], None]
) -> Database:
    """Returns the database of the configuration: its own, that of the records where several gateways may share it, or
    a file."""
    setting, url = "gateway.conversations.url", gateway.conversations.url
    if url is not None and url.missing is not None:
        raise document.error(setting, f"{url.missing} is not set")
    if url is None and is_shared(document, gateway.records):
        setting, url = SETTING, gateway.records.url
    text = None if url is None else url.reveal()
    return Database(text, path, gateway.conversations.connections, recover, setting)


def _instance(path: Path) -> str:
    """Returns the id of this gateway, which stays over restarts: it is kept in its state folder."""
    try:
        known = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        known = ""
    if len(known) != 32:
        known = new_uuid().replace("-", "")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{known}\n", encoding="ascii")
    return known
