"""Vectors of words."""

from sluice_retrieval.text import bm25


def test_of_names_that_are_too_long_to_be_names_none_is_remembered() -> None:
    before = bm25._remembered_terms.cache_info().currsize
    for number in range(50):
        assert bm25.document_vector([f"blob{number}" + "a" * 300]).indices
    assert bm25._remembered_terms.cache_info().currsize == before
    assert bm25.document_vector(["a_name_that_nobody_had_before"]).indices
    assert bm25._remembered_terms.cache_info().currsize == before + 1


def test_a_long_name_has_the_terms_it_would_have_if_it_were_remembered() -> None:
    name = "part_" * 60 + "end"
    assert bm25._terms_of(name) == bm25._remembered_terms.__wrapped__(name)
