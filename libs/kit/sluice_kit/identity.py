"""Who is calling, as it travels inside the mesh."""

from functools import lru_cache
from typing import Final

from sluice.auth.v1.identity_pb2 import Identity, Role

IDENTITY_KEY: Final = "sluice-identity-bin"
"""Metadata entry of the serialised Identity. The public listener strips it from what clients send."""

LOCAL_TENANT: Final = "local"

LOCAL_IDENTITY: Final = Identity(tenant=LOCAL_TENANT, subject="local", roles=[Role.ROLE_ADMIN])
"""Everyone, where authentication is off."""


def encode(identity: Identity) -> bytes:
    """Returns the value of the metadata entry."""
    return identity.SerializeToString(deterministic=True)


@lru_cache(maxsize=4096)
def decode(value: bytes) -> Identity:
    """Returns the identity in a metadata entry. The result is shared: never change it.

    Raises google.protobuf.message.DecodeError.
    """
    return Identity.FromString(value)


def has_role(identity: Identity, role: "Role.ValueType") -> bool:
    """Tells whether the identity may do what `role` may: roles are ordered, each includes the ones before."""
    return max(identity.roles, default=Role.ROLE_UNSPECIFIED) >= role
