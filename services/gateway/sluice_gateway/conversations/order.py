"""Order: one answer at a time in a conversation, and those that wait in the order they came."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from sluice_gateway.conversations.store import busy, not_found

if TYPE_CHECKING:
    from sluice_gateway.responses.response import Response

_Key = tuple[str, str]
"""Tenant, and resource name of the conversation."""


class Place:
    """The place of one answer in a conversation: its turn is when all before it have left. Leave it in any case."""

    __slots__ = ("_order", "key", "response", "turn")

    def __init__(self, order: "Order", key: _Key) -> None:
        self._order = order
        self.turn: asyncio.Future[None] | None = None
        """Done when it is its turn. None: that was so from the start."""
        self.key = key
        self.response: Response | None = None
        """The answer that has it."""

    async def wait(self) -> None:
        """Waits until all before it have left. Who gives up waiting leaves."""
        if self.turn is not None:
            await self.turn

    def leave(self) -> None:
        """Gives the place up, to the next one if it was its turn. Doing it again changes nothing."""
        self._order.leave(self)


class Order:
    """The places of every conversation in which an answer is made. For the event loop's thread, and kept by it alone:
    when the process ends, nothing of it is left."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._places: dict[_Key, deque[Place]] = {}
        self._closed: set[_Key] = set()

    def enter(self, tenant: str, conversation: str, *, queue: bool) -> Place:
        """Returns a place at the end.

        Raises CONVERSATION_BUSY if there is somebody before it and it is not to `queue`, or if too many wait already;
        NotFoundError while the conversation is being deleted.
        """
        key = (tenant, conversation)
        if key in self._closed:
            raise not_found(conversation)
        places = self._places.get(key)
        place = Place(self, key)
        if places is None:
            self._places[key] = deque((place,))
            return place
        if not queue:
            raise busy(conversation, "is busy with another answer")
        if len(places) > self._max_waiting:
            raise busy(conversation, f"is busy, and {self._max_waiting} answers wait already")
        place.turn = asyncio.get_running_loop().create_future()
        places.append(place)
        return place

    def leave(self, place: Place) -> None:
        """Takes a place out, wherever it stands."""
        places = self._places.get(place.key)
        if places is None or place not in places:
            return
        first = places[0] is place
        places.remove(place)
        if not places:
            del self._places[place.key]
        elif first:
            following = places[0].turn
            if following is not None and not following.done():
                following.set_result(None)

    def places(self, tenant: str, conversation: str) -> list[Place]:
        """Returns the places of a conversation, in their order."""
        return list(self._places.get((tenant, conversation), ()))

    def close(self, tenant: str, conversation: str) -> None:
        """Lets nobody enter a conversation until `reopen`."""
        self._closed.add((tenant, conversation))

    def reopen(self, tenant: str, conversation: str) -> None:
        """Lets others enter again."""
        self._closed.discard((tenant, conversation))

    @property
    def idle(self) -> bool:
        """Whether nobody has a place anywhere."""
        return not self._places

    def is_busy(self, tenant: str, conversation: str) -> bool:
        """Whether somebody has a place."""
        return (tenant, conversation) in self._places
