"""Chunks follow the structure in every language, and hold whatever is in a file."""

import time
from importlib import metadata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_retrieval.chunking.chunker import chunk_file
from sluice_retrieval.chunking.grammars import GRAMMARS, load
from sluice_retrieval.chunking.headings import HEADINGS
from sluice_retrieval.chunking.indented import INDENTED
from sluice_retrieval.chunking.patterns import PATTERNS
from sluice_retrieval.chunking.spans import Chunk, ChunkSizes
from sluice_retrieval.text.languages import language_of
from sluice_retrieval.text.lines import decode, split_lines

from .invariants import check
from .snippets import SNIPPETS

SMALL = ChunkSizes(target=240, small=40)
LANGUAGES = sorted({*GRAMMARS, *PATTERNS, *INDENTED, *HEADINGS, "markdown", "text"})


def cut(text: str, language: str, sizes: ChunkSizes = SMALL) -> tuple[list[str], list[Chunk]]:
    data = text.encode(errors="surrogatepass")
    lines = split_lines(decode(data))
    found = chunk_file(data, lines, language, sizes)
    check(found, lines)
    return lines, found


@pytest.mark.parametrize("language", SNIPPETS)
def test_chunks_follow_the_structure(language):
    source, expected = SNIPPETS[language]
    sizes = SMALL if language in GRAMMARS else ChunkSizes(120, 20)
    lines, found = cut(source, language, sizes)
    symbols = {}
    for part, _ in expected:
        (row,) = (number for number, line in enumerate(lines, 1) if part in line)
        (symbols[part],) = (chunk.symbol for chunk in found if chunk.start_line <= row <= chunk.end_line)
    assert symbols == dict(expected)


@pytest.mark.parametrize("language", SNIPPETS)
def test_no_chunk_only_closes_or_opens_something(language):
    lines, found = cut(SNIPPETS[language].source, language)
    for chunk in found:
        assert any(character.isalnum() for character in "".join(lines[chunk.start_line - 1 : chunk.end_line]))


@pytest.mark.parametrize("language", SNIPPETS)
def test_what_is_small_stays_whole(language):
    """With room for all, a class keeps its members, and nothing is cut inside."""
    _, found = cut(SNIPPETS[language].source, language, ChunkSizes(100_000, 50_000))
    _, finer = cut(SNIPPETS[language].source, language)
    assert len(found) <= len(finer)
    assert not any(chunk.context for chunk in found if language not in ("javascript", "csharp", "php"))


@pytest.mark.parametrize(("language", "context"), [
    ("javascript", "class Kettle extends Vessel {"),
    ("java", "public class Kettle<T extends Leaf> extends Vessel"),
    ("csharp", "public class Kettle<T> : Vessel where T : Leaf"),
    ("rust", "fmt::Display for Kettle<'a, T>"),
    ("kotlin", "class Kettle<T : Leaf>(val leaf: T) : Vessel() {"),
    ("ruby", "class Kettle < Vessel"),
    ("php", "final class Kettle extends Vessel implements Whistles"),
    ("cpp", "class Kettle : public Vessel {"),
    ("protobuf", "service Kettle {"),
    ("yaml", "jobs:"),
])  # fmt: skip
def test_context_is_what_encloses(language, context):
    _, found = cut(SNIPPETS[language].source, language, SMALL if language in GRAMMARS else ChunkSizes(120, 20))
    assert any(context in chunk.context for chunk in found)


def test_tiny_definitions_join_and_overloads_are_one():
    getters = "".join(f"  get {name}() {{ return this._{name}; }}\n" for name in ("leaf", "size", "full"))
    _, found = cut("class Cup {\n" + getters + "}\n" + "// pads the file\n" * 30, "javascript", ChunkSizes(800, 300))
    assert [(chunk.start_line, chunk.end_line, chunk.symbol) for chunk in found[:1]] == [(1, 5, "Cup")]
    source = "def f(a: int) -> int: ...\n\n@overload\ndef f(a: str) -> str: ...\n\ndef f(a):\n    return a\n"
    _, found = cut(source, "python", ChunkSizes(400, 8))
    assert [chunk.symbol for chunk in found] == ["f"]


def test_every_grammar_that_is_declared_is_used():
    declared = {name.split(">=")[0] for name in metadata.requires("sluice-retrieval") or () if "tree-sitter-" in name}
    used = {f"tree-sitter-{grammar.module.replace('_', '-')}" for grammar in GRAMMARS.values()}
    assert used | {"tree-sitter-markdown"} >= declared


@pytest.mark.parametrize("language", GRAMMARS)
def test_the_table_names_nodes_that_the_grammar_has(language):
    grammar = GRAMMARS[language]
    made = load(grammar.module, grammar.function)
    known = {made.node_kind_for_id(number) for number in range(made.node_kind_count)}
    named = grammar.units | grammar.groups | grammar.open | grammar.attached | grammar.values | grammar.prefixes
    shared = {"public_field_definition", "field_definition"}  # of JavaScript or TypeScript
    assert named | {kind for kind, *_ in grammar.bindings} - shared <= known | shared


pieces = st.sampled_from([line + "\n" for snippet in SNIPPETS.values() for line in snippet.source.split("\n")]) | (
    st.sampled_from(["}\n", "{\n", "((((", "\r\n", '"', "'''", "/*", "*/", "\t", "  ", "\u2028", "ü", "end\n", "#if 1\n", "<?php ", "`${"])
)  # fmt: skip
whole = st.sampled_from([snippet.source for snippet in SNIPPETS.values()])


@pytest.mark.parametrize("language", LANGUAGES)
@settings(max_examples=25)
@given(parts=st.lists(whole | pieces | st.text(max_size=20), max_size=24))
def test_no_line_is_lost(language, parts):
    cut("".join(parts), language)


@pytest.mark.parametrize("language", sorted(SNIPPETS))
@settings(max_examples=15)
@given(data=st.data())
def test_no_line_of_broken_source_is_lost(language, data):
    source = SNIPPETS[language].source
    start = data.draw(st.integers(0, len(source)))
    end = data.draw(st.integers(start, len(source)))
    cut(source[:start] + data.draw(st.sampled_from(["", "\n", "{", '"', "\x00", "(" * 50])) + source[end:], language)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_file_is_always_cut_the_same(language):
    text = "".join(snippet.source for snippet in SNIPPETS.values())
    assert cut(text, language) == cut(text, language)


HOSTILE = {
    "brackets": "(" * 30_000,
    "brackets by line": "([{\n" * 8_000,
    "braces": "class A { " * 4_000,
    "indentation": "".join(" " * level + f"k{level}:\n" for level in range(800)),
    "one statement": "x = [\n" + "  1,\n" * 30_000 + "]\n",
    "one line": "x = " + "1 + " * 40_000 + "1",
    "many definitions": "def f(): pass\n\nfunction f() { return 1 }\n" * 2_000,
    "comments": "// a\n# a\n" * 10_000,
    "quotes": "'" * 20_000,
    "headings": "a\n===\n" * 5_000 + "=" * 20_000,
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("language", LANGUAGES)
def test_hostile_files_end(language, name):
    cut(HOSTILE[name], language)


@pytest.mark.parametrize("language", ["java", "csharp", "kotlin"])
def test_a_parser_that_takes_too_long_is_left(language, monkeypatch):
    """Some grammars take quadratic time over such input; the file is then cut by paragraphs."""
    began = time.process_time()
    steps = iter(range(10**9))
    monkeypatch.setattr("sluice_retrieval.chunking.syntax.time.process_time", lambda: began + next(steps))
    _, found = cut("a<b?c:\n" * 4_000, language)
    assert {chunk.symbol for chunk in found} == {""}


@pytest.mark.parametrize(
    ("path", "head", "language"),
    [
        ("a/b.PY", b"", "python"),
        ("x.tsx", b"", "tsx"),
        ("Makefile", b"", "make"),
        ("deploy/Dockerfile.dev", b"", "dockerfile"),
        ("bin/run", b"#!/usr/bin/env python3\n", "python"),
        ("bin/run", b"#!/usr/bin/python3.11 -u\r\n", "python"),
        ("bin/run", b"#! /bin/bash\n", "shell"),
        ("bin/run", b"#!/usr/bin/env -S deno run --allow-net\n", "typescript"),
        ("bin/run", b"#!/usr/bin/env -i LANG=C node\n", "javascript"),
        ("bin/run", b"#!/usr/bin/env\n", ""),
        ("bin/run", b"#!\n", ""),
        ("bin/run", b"echo\n#!/bin/sh", ""),
        ("notes.xyz", b"#!/bin/sh\n", ""),
        ("a.h", b"#pragma once\nstruct a { int b; };\n", "c"),
        ("a.h", b"#pragma once\nnamespace a {\n", "cpp"),
        ("a.h", b"class A : public B {\n public:\n", "cpp"),
        ("a.h", b'#include <stdio.h>\nextern "C" int f(void);\n', "c"),
        ("a.h", b"#include <vector>\n", "cpp"),
    ],
)
def test_languages(path, head, language):
    assert language_of(path, head) == language


@given(st.text(max_size=40), st.binary(max_size=80))
def test_any_name_has_a_language_or_none(path, head):
    assert isinstance(language_of(path, b"#!" + head), str)
