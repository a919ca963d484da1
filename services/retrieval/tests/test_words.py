"""Words, terms and weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_retrieval.text.bm25 import K1, MAX_QUERY_TERMS, document_vector, query_vector, term_id
from sluice_retrieval.text.words import stem, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parse_http2_frame", {"parse_http2_frame", "pars", "http2", "http", "2", "fram"}),
        ("HTTPServer", {"httpserver", "http", "server"}),
        ("getResponseCode", {"getresponsecode", "get", "respons", "code"}),
        ("os.path.join", {"os.path.join", "os", "path", "join"}),
        ("__init__", {"init"}),
        ("x86_64", {"x86_64", "x86", "x", "86", "64"}),
        ("Größe ändern", {"größe", "ändern"}),
        ("3.14", {"3.14", "3", "14"}),
        ("--dry-run", {"dry_run", "dry", "run"}),
        ("std::move", {"std.move", "std", "move"}),
        ("cup->leaf", {"cup.leaf", "cup", "leaf"}),
        ("font-size: 12px", {"font_size", "font", "size", "12", "px"}),
        ("a - b - 1", {"b", "1"}),
        ("reqCtx", {"reqctx", "req", "request", "ctx", "context"}),
    ],
)
def test_names_are_split_and_kept_whole(text, expected):
    assert set(words(text)) == expected


def test_all_spellings_of_a_name_share_words():
    spellings = ["parse_kettle_config", "parseKettleConfig", "ParseKettleConfig", "parse-kettle-config"]
    shared = set.intersection(*(set(words(spelling)) for spelling in spellings))
    assert shared == {"pars", "kettl", "config"}


def test_a_flag_finds_the_variable_and_a_path_finds_its_other_spelling():
    assert "dry_run" in set(words("pass --dry-run")) & set(words("if dry_run:"))
    assert "std.move" in set(words("std::move")) & set(words("std.move"))


def test_short_forms_stand_for_the_word_in_any_of_its_forms():
    assert set(words("cfg")) > set(words("config"))
    assert set(words("parse_args")) >= set(words("arguments"))


@pytest.mark.parametrize(
    "family",
    [
        ("index", "indexes", "indexing", "indexed"),
        ("verify", "verifies", "verified", "verifying"),
        ("cache", "caches", "caching", "cached"),
        ("run", "runs", "running"),
        ("match", "matches", "matching", "matched"),
    ],
)
def test_endings_are_cut_alike(family):
    assert len({stem(word) for word in family}) == 1


@pytest.mark.parametrize("word", ["class", "process", "status", "this", "bus", "string", "is", "bed"])
def test_words_that_only_look_inflected_do_not_collapse(word):
    assert len(stem(word)) >= len(word) - 3
    assert stem(word)


def test_questions_lose_their_filler():
    assert words("How does the server do what it was told to?") == ["server", "told"]


def test_ids_are_the_same_for_ever():
    # What is written in an index on disk depends on these.
    assert term_id("kettl") == 0x7897E77D
    assert term_id("tea") == 0x8E86D7B2


@given(st.text(max_size=400))
def test_any_text_has_a_vector(text):
    vector = document_vector([text])
    assert vector.indices == sorted(set(vector.indices))
    assert len(vector.indices) == len(vector.values)
    assert all(value > 0 for value in vector.values)
    assert set(query_vector(text).indices) <= set(vector.indices)


def test_repeats_count_less_and_less_and_length_holds_back():
    def weight(text: str) -> float:
        vector = document_vector([text])
        return vector.values[vector.indices.index(term_id("tea"))]

    once, twice, often = weight("tea"), weight("tea tea"), weight("tea " * 50)
    assert once < twice < often < K1 + 1
    assert weight("tea " + "x" * 3 + " water " * 300) < once


def test_a_long_question_is_shortened():
    query = " ".join(f"word{number}" for number in range(5000))
    assert 0 < len(query_vector(query).indices) <= MAX_QUERY_TERMS + 2
