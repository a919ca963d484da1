"""Runs every case with one client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from .cases import CASES, Case
from .conduct import Stage, runner, stage

_CASE_SECONDS: Final = 90.0


async def perform(clients: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Returns by client and case what went wrong; empty where nothing did. `clients` has the command of each runner."""
    async with stage() as (bare, key):
        return {name: await _all(bare, command, key) for name, command in clients.items()}


async def _all(bare: Stage, command: Sequence[str], key: str) -> dict[str, str]:
    found: dict[str, str] = {}
    waiting = list(CASES.values())
    while waiting:
        # A case that failed may leave its runner in the middle of something: the next one gets another.
        try:
            async with runner(command, key) as client:
                scene = replace(bare, client=client)
                while waiting:
                    case = waiting.pop(0)
                    found[case.name] = await _one(case, scene)
                    if found[case.name]:
                        raise _FailedError
        except _FailedError:
            continue
    return found


async def _one(case: Case, scene: Stage) -> str:
    scene.stalled.clear()
    try:
        async with asyncio.timeout(_CASE_SECONDS):
            await case.play(scene)
    except (AssertionError, LookupError, TimeoutError, TypeError, ValueError) as error:  # it said something else
        return f"{type(error).__name__}: {str(error)[:2000]}"
    return ""


class _FailedError(Exception):
    """A case failed."""
