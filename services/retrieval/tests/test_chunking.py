"""Chunks: whole lines, in order, none lost, along the structure."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_retrieval.chunking.chunker import chunk_file
from sluice_retrieval.chunking.spans import Chunk, ChunkSizes
from sluice_retrieval.text.lines import decode, join_lines, split_lines

from .invariants import check

SMALL = ChunkSizes(target=120, small=40)
USUAL = ChunkSizes()


def chunks(text: str, language: str, sizes: ChunkSizes = USUAL) -> list[tuple[Chunk, str]]:
    data = text.encode()
    lines = split_lines(decode(data))
    found = chunk_file(data, lines, language, sizes)
    check(found, lines)
    return [(chunk, join_lines(lines, chunk.start_line, chunk.end_line)) for chunk in found]


python_pieces = st.sampled_from(
    [
        "import os\n", "\n", "x = 1\n", "@decorated\n", "def f(a, b):\n", "    return a\n", "class C(Base):\n",
        '    """Doc."""\n', "    async def g(self):\n", "        await h()\n", "# comment\n", "if x:\n", "  else\n",
        "s = '''\n", "'''\n", "    x = (\n", "    )\n", "\t\n", "a = 1; def b(): pass\n", "\r\n", "ü = 'ß'\n", "}\n",
    ]
)  # fmt: skip
markdown_pieces = st.sampled_from(
    [
        "# One\n", "## Two\n", "### Three\n", "text\n", "\n", "- item\n", "```python\n", "# no heading\n", "```\n",
        "Setext\n", "======\n", "---\n", "> quote\n", "| a | b |\n", "    code\n", "<div>\n", "#\n", "\r\n", "no end",
    ]
)  # fmt: skip


@settings(max_examples=80)
@given(st.lists(python_pieces, max_size=40).map("".join))
def test_python_loses_no_line(text):
    chunks(text, "python", SMALL)


@settings(max_examples=80)
@given(st.lists(markdown_pieces, max_size=40).map("".join))
def test_markdown_loses_no_line(text):
    chunks(text, "markdown", SMALL)


@settings(max_examples=60)
@given(st.text(max_size=600), st.sampled_from(["python", "markdown", "", "rust"]))
def test_any_text_loses_no_line(text, language):
    chunks(text, language, SMALL)


@settings(max_examples=60)
@given(st.binary(max_size=400))
def test_any_bytes_read_the_same_way_always(data):
    lines = split_lines(decode(data))
    assert "".join(lines) == decode(data)
    check(chunk_file(data, lines, "python", SMALL), lines)
    check(chunk_file(data, lines, "markdown", SMALL), lines)


@given(st.text(alphabet="ab\n\r", max_size=60))
def test_lines_join_to_the_text(text):
    lines = split_lines(text)
    assert "".join(lines) == text
    assert all(line.count("\n") <= 1 for line in lines)
    assert len(lines) == text.count("\n") + (not text.endswith("\n") and bool(text))


PYTHON = '''"""Module."""

import os

LIMIT = 3


# What it is for.
# In two lines.
@cached
def first(a: int) -> int:
    return a


class Kettle(Base):
    """Boils water."""

    volume = 2

    def boil(self) -> None:
        """Makes it hot."""
        self.heat(100)

    class Lid:
        def close(self) -> None:
            """Shuts it, so that the steam whistles when the water boils."""
            self.shut = True


def last() -> None:
    pass
'''


def test_python_by_definition():
    found = {chunk.symbol: (chunk, text) for chunk, text in chunks(PYTHON, "python", ChunkSizes(400, 60))}
    assert list(found) == ["", "first", "Kettle", "Kettle.boil", "Kettle.Lid", "Kettle.Lid.close", "last"]
    assert found["first"][1].startswith("# What it is for.\n# In two lines.\n@cached\n")
    assert found["Kettle"][1] == 'class Kettle(Base):\n    """Boils water."""\n\n    volume = 2\n'
    assert found["Kettle.boil"][0].context == "class Kettle(Base):\n"
    assert "class Lid:" in found["Kettle.Lid.close"][0].context
    assert found[""][1].endswith("LIMIT = 3\n")


def test_python_spans_are_those_of_the_parser():
    tree = ast.parse(PYTHON)
    spans = {chunk.symbol: chunk for chunk, _ in chunks(PYTHON, "python", ChunkSizes(400, 60))}
    last = tree.body[-1]
    assert isinstance(last, ast.FunctionDef)
    assert (spans["last"].start_line, spans["last"].end_line) == (last.lineno, last.end_lineno)


def test_a_small_class_stays_whole():
    text = "class Cup:\n    size = 1\n\n    def pour(self):\n        return 1\n"
    assert [chunk.symbol for chunk, _ in chunks(text, "python")] == ["Cup"]


def test_a_long_function_is_cut_between_statements():
    body = "".join(f"    step_{number} = call(\n        {number},\n    )\n" for number in range(40))
    found = chunks(f"def long():\n{body}", "python", ChunkSizes(300, 60))
    assert len(found) > 3
    assert {chunk.symbol for chunk, _ in found} == {"long"}
    assert all(text.rstrip().endswith(")") for _, text in found)
    assert all(len(text) <= 300 for _, text in found)


def test_syntax_errors_are_no_reason_to_stop():
    found = chunks("def broken(:\n    pass\n\n\ndef fine():\n    return 1\n", "python", SMALL)
    assert any("fine" in chunk.symbol for chunk, _ in found)


def test_markdown_by_section():
    text = (
        "intro\n\n# Tea\n\nAbout tea.\n\n## Green\n\nSteep it short.\n\n```sh\n# not a heading\nboil\n```\n\n"
        "## Black\n\nSteep it long.\n\n# Coffee\n\nNo.\n"
    )
    found = [(chunk.symbol, text) for chunk, text in chunks(text, "markdown", SMALL)]
    assert [symbol for symbol, _ in found] == ["", "Tea", "Tea > Green", "Tea > Black", "Coffee"]
    assert "# not a heading" in found[2][1]


def test_a_heading_is_not_left_alone():
    text = "# Title\n\n" + "word " * 40 + "\n" + "line\n" * 60
    found = chunks(text, "markdown", ChunkSizes(300, 40))
    assert len(found[0][1]) > 100


def test_a_long_line_is_a_chunk_of_its_own():
    found = chunks("short\n" + "x" * 5000 + "\nshort again\n", "", ChunkSizes(300, 40))
    assert [text.strip()[:5] for _, text in found] == ["short", "xxxxx", "short"]


def test_deep_nesting_ends():
    depth = 300
    text = "".join("    " * level + f"class C{level}:\n" for level in range(depth)) + "    " * depth + "x = 1\n"
    assert chunks(text, "python", SMALL)


@pytest.mark.parametrize("language", ["python", "markdown", ""])
@pytest.mark.parametrize("text", ["", "\n", "\r\n\r\n", "   \n\t\n"])
def test_nothing_makes_no_chunk(text, language):
    assert chunks(text, language) == []


def test_line_ends_are_kept():
    (_, text), *_ = chunks("def a():\r\n    return 1\r\n", "python")
    assert text == "def a():\r\n    return 1\r\n"
