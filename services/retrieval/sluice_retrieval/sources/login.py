"""How to log in at the host of a repository: what a child is told, which needs nothing of the service to know it."""

import msgspec


class Login(msgspec.Struct, frozen=True):
    """What a host is told when it asks who fetches. It never prints its token."""

    user: str
    token: str

    def __repr__(self) -> str:
        return "Login(***)"

    __str__ = __repr__
