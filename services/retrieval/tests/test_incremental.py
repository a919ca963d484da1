"""An index after a change costs the change, and is the same as one that was made from nothing."""

import asyncio
import os
import random
from pathlib import Path

from sluice.chat.v1.target_pb2 import Target
from sluice.retrieval.v1 import corpus_pb2
from sluice_retrieval.indexing import wire
from sluice_retrieval.records import corpora as rows
from sluice_retrieval.store.base import Query
from sluice_retrieval.text.bm25 import query_vector

EMBEDDER = corpus_pb2.Embedder(target=Target(provider="test", model="words"), dimensions=32)


async def contents(client, corpus: str = "docs") -> dict[str, object]:
    """Returns every chunk of the visible generation with its place, and the scores of a few questions."""
    store, database = client.service.store, client.service.database
    row = await database.read(lambda session: rows.visible(session, "local", corpus)[1])
    key = rows.generation_key(row)
    found: dict[str, object] = {"count": await store.count(key), "documents": row.document_count}
    for word in ("def", "return", "value", "kettle", "number", "tea"):
        vector = query_vector(word)
        hits = await store.search(key, Query(1000, vector.indices, vector.values))
        found[word] = sorted((hit.id, hit.payload, round(hit.score, 4)) for hit in hits)
    return found


def age(folder: Path) -> None:
    """Makes every file look old enough to be trusted by its times."""
    for path in folder.rglob("*"):
        if path.is_file():
            status = path.stat()
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 10_000_000_000))


def asked(monkeypatch) -> list[object]:
    """Records what children are asked."""
    from sluice_retrieval.children.process import Child

    questions: list[object] = []
    ask = Child.ask

    async def record(self, question, answer):
        questions.append(question)
        return await ask(self, question, answer)

    monkeypatch.setattr(Child, "ask", record)
    return questions


def write_modules(root: Path, count: int) -> None:
    for number in range(count):
        body = "\n\n".join(
            f"def function_{number}_{index}(value):\n    return value + {index}  # number" for index in range(8)
        )
        (root / f"module_{number}.py").write_text(body + "\n")


async def test_a_change_of_one_file_cuts_and_writes_that_one_alone(start, source, monkeypatch):
    write_modules(source, 30)
    async with start() as client:
        await client.index(source)
        questions = asked(monkeypatch)
        path = source / "module_7.py"
        path.write_text(path.read_text().replace("def function_7_3", "# moved down a line\ndef kettle_7_3"))
        (source / "module_8.py").unlink()
        (source / "module_9.py").rename(source / "module_nine.py")
        result = await client.index(source)
        cut = [file.path for question in questions if isinstance(question, wire.Cut) for file in question.files]
        assert sorted(cut) == ["module_7.py", "module_nine.py"]
        assert result.files == 33
        changed = await contents(client)
        await client.index(source, "fresh")
        assert changed == await contents(client, "fresh")


async def test_files_that_did_not_change_are_not_read_again(start, source, monkeypatch):
    write_modules(source, 10)
    (source / "picture.bin").write_bytes(b"\0" * 100)
    async with start() as client:
        age(source)
        await asyncio.sleep(2.1)  # the times of change on disk cannot be set, and count too
        first = await client.index(source)
        questions = asked(monkeypatch)
        (source / "module_3.py").write_text("def kettle(): ...\n")
        second = await client.index(source)
        read = [file.path for question in questions if isinstance(question, wire.Read) for file in question.files]
        assert read == ["module_3.py"]
        assert second.skipped == first.skipped == {"binary": 1}
        assert second.files == first.files


async def test_chunks_that_only_moved_are_not_embedded_again(start, source, embedder):
    write_modules(source, 1)
    async with start({"gateway": {"address": embedder.address}, "chunks": {"target_chars": 100}}) as client:
        await client.create(embedder=EMBEDDER)
        await client.index(source)
        embedder.texts.clear()
        path = source / "module_0.py"
        path.write_text("import os\n\n\n" + path.read_text())
        await client.index(source)
        assert len(embedder.texts) == 1
        assert "import os" in embedder.texts[0]
        found = (await client.search("function_0_5", top_k=1))[0]
        assert found.text == "".join(path.read_text().splitlines(keepends=True)[found.start_line - 1 : found.end_line])


async def test_many_changes_one_after_the_other_end_as_one(start, source):
    rnd = random.Random(5)
    async with start() as client:
        for _ in range(6):
            for number in rnd.sample(range(20), 5):
                path = source / f"module_{number}.py"
                if path.exists() and rnd.random() < 0.4:
                    path.unlink()
                else:
                    path.write_text(f"def function_{number}(value):\n    return value * {rnd.random()}\n")
            await client.index(source)
        changed = await contents(client)
        await client.index(source, "fresh")
        assert changed == await contents(client, "fresh")
