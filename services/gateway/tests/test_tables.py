"""Tables are made by several threads of a process at once: a gateway keeps records and conversations."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy import create_engine, inspect

from sluice_gateway.conversations.migrate import STEPS as CONVERSATIONS
from sluice_gateway.records.migrate import STEPS as RECORDS
from sluice_kit.tables import Steps, prepare

_DATABASES = 8


def test_tables_of_two_kinds_are_made_at_once(tmp_path: Path) -> None:
    def make(number: int, steps: Steps) -> set[str]:
        # What Alembic keeps for its steps is the process's, so that one thread could change the tables of another.
        engine = create_engine(f"sqlite:///{tmp_path}/{number}.db")
        with engine.begin() as connection:
            prepare(connection, steps, "the test's database")
        names = set(inspect(engine).get_table_names())
        engine.dispose()
        return names

    with ThreadPoolExecutor(_DATABASES) as pool:
        kinds = [(RECORDS, CONVERSATIONS)[number % 2] for number in range(_DATABASES)]
        made = list(pool.map(make, range(_DATABASES), kinds))
    assert {frozenset(names) for names in made[::2]} == {frozenset(made[0])}
    assert {frozenset(names) for names in made[1::2]} == {frozenset(made[1])}
    assert {"responses", "attempts"} <= made[0]
    assert {"conversations", "turns"} <= made[1]
    assert made[0].isdisjoint(made[1])
