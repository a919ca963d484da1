"""Decides whether the ledger's attempts have the tokens that they must have, and cost what these cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, Any]


def is_left(row: Row) -> bool:
    """Whether an attempt was ended in place of its gateway, which alone would know why it failed."""
    return (row["outcome"], row["reason"], row["usage_source"]) == ("failed", "", "estimated")


def costs(attempts: Sequence[Row], prices: tuple[int, int]) -> Iterator[str]:
    """Yields what is wrong with rows of attempts, where a token read and one generated have these prices."""
    for row in attempts:
        name = f"the attempt {row['number']}, which is {row['outcome']} {row['reason'] or 'without a reason'},"
        read, made, cost = row["input_tokens"], row["output_tokens"], row["cost_nano_usd"]
        if row["outcome"] == "running":
            continue  # that it is open still is a violation of its own
        if cost != read * prices[0] + made * prices[1]:
            yield f"{name} costs {cost}, with {read} tokens read and {made} generated"
        delivered = row["outcome"] == "completed" or row["ttft_us"] is not None
        # The vendor may have been asked: who ends what another gateway left cannot know, and takes it for asked.
        if not read and (delivered or is_left(row)):
            yield f"{name} has read nothing"
        if not made and delivered:
            yield f"{name} has delivered, but no tokens"


def estimates(attempts: Sequence[Row], seen: int) -> Iterator[str]:
    """Yields what is wrong with attempts that were left, where the log is shared and so many bytes of text were seen.

    What anybody saw was in the log before, which the survivors have read.
    """
    made = sum(row["output_tokens"] for row in attempts)
    if made * 4 < seen and any(map(is_left, attempts)):
        yield f"{made} tokens are on record for {seen} bytes of text that were seen"
