"""What the service asks the child that holds the local embedding model."""

import msgspec


class Embed(msgspec.Struct, tag=True):
    """Asks for vectors."""

    texts: list[str]


class Vectors(msgspec.Struct):
    """The answer: one for each text, in order."""

    vectors: list[list[float]]
