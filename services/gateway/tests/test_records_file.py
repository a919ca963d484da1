"""The writer of records in a file: what one bad row does to the others."""

import sqlite3
from typing import Any

import pytest

from sluice_kit.errors import SluiceError


@pytest.mark.parametrize("state", [object(), "\ud800", 2**70, None], ids=["type", "text", "number", "null"])
async def test_a_row_that_cannot_be_written_is_given_up_alone(start: Any, ask: Any, state: Any, caplog: Any) -> None:
    async with start() as client:
        ledger = client.gateway._ledger
        writer, statements = ledger._writer, ledger._statements
        assert (await client.stream(ask())).error is None
        [row] = await client.rows("responses")
        end = {"row": row["key"], "state": "cancelled", "reason": "X", "end_ns": 5}
        writer.write_soon((statements.end_response, end | {"state": state}), (statements.end_response, end))
        refused = writer.write((statements.insert_response, {**row, "key": row["key"] + 1}))
        with pytest.raises(SluiceError) as caught:
            await refused
        assert caught.value.reason_name == "STORE_UNAVAILABLE"
        assert [one["state"] for one in await client.rows("responses")] == ["cancelled"]
        assert "a row cannot be written" in caplog.text
        assert "records are lost" in caplog.text
        # Nothing of it is left behind.
        assert writer.queued == 0
        await writer.write((statements.insert_response, {**row, "key": row["key"] + 1}))
        assert (await client.stream(ask())).error is None


async def test_rows_behind_a_bad_one_wait_for_a_database_that_is_locked(start: Any, ask: Any, tmp_path: Any) -> None:
    async with start(state_dir=str(tmp_path)) as client:
        ledger = client.gateway._ledger
        writer, statements = ledger._writer, ledger._statements
        assert (await client.stream(ask())).error is None
        [row] = await client.rows("responses")
        end = {"row": row["key"], "state": "cancelled", "reason": "X", "end_ns": 5}
        other = sqlite3.connect(tmp_path / "gateway" / "records.db", isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            writer.write_soon((statements.end_response, end | {"state": object()}), (statements.end_response, end))
            writer._flush()
            assert writer.queued == 1
        finally:
            other.close()
        assert [one["state"] for one in await client.rows("responses")] == ["cancelled"]
