"""Which points of a shared collection a generation consists of.

Points of all tenants, corpora and generations lie in one collection. A point carries the number of the generation that
wrote it, `since`, and of the first one that does not have it any more, `until`; so a new generation touches only what
changed, and the one before can be searched until it is deleted. Every condition here holds tenant and corpus, and
nothing outside this package builds a filter.
"""

from collections.abc import Sequence
from typing import Final

from qdrant_client.http import models

from sluice_retrieval.store.base import Generation, Query

TENANT: Final = "tenant"
CORPUS: Final = "corpus"
PATH: Final = "path"
CHUNK: Final = "chunk"
SINCE: Final = "since"
UNTIL: Final = "until"

Conditions = list[models.Condition]


def corpus_of(generation: Generation) -> Conditions:
    """Returns the conditions for every point of a generation's corpus."""
    return [_equals(TENANT, generation.tenant), _equals(CORPUS, generation.corpus)]


def visible(generation: Generation, *more: models.Condition, without: Sequence[models.Condition] = ()) -> models.Filter:
    """Returns the filter for the points that a generation consists of."""
    return models.Filter(
        must=[*corpus_of(generation), _range(SINCE, lte=generation.number), *more],
        must_not=[_range(UNTIL, lte=generation.number), *without],
    )


def searched(generation: Generation, query: Query) -> models.Filter:
    """Returns the filter for the points that a question is put to."""
    more = [paths(query.include_paths)] if query.include_paths is not None else []
    return visible(generation, *more, without=[paths(query.exclude_paths)] if query.exclude_paths else [])


def outdated(generation: Generation, *more: models.Condition) -> models.Filter:
    """Returns the filter for the points of earlier generations that nothing has replaced yet."""
    empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=UNTIL))
    return models.Filter(must=[*corpus_of(generation), _range(SINCE, lt=generation.number), empty, *more])


def written(generation: Generation) -> models.Filter:
    """Returns the filter for the points that a generation wrote itself."""
    number = generation.number
    return models.Filter(must=[*corpus_of(generation), _range(SINCE, gte=number, lte=number)])


def ended(generation: Generation) -> models.Filter:
    """Returns the filter for the points that a generation was the first not to have."""
    number = generation.number
    return models.Filter(must=[*corpus_of(generation), _range(UNTIL, gte=number, lte=number)])


def between(generation: Generation, after: int | None, before: int | None) -> models.Filter:
    """Returns the filter for the points that no generation has but those between two numbers, both exclusive."""
    must = corpus_of(generation)
    if after is not None:
        must.append(_range(SINCE, gt=after))
    if before is not None:
        must.append(_range(UNTIL, lte=before))
    return models.Filter(must=must)


def later(generation: Generation) -> models.Condition:
    """Returns the condition for points that only later generations do not have."""
    return _range(UNTIL, gt=generation.number)


def paths(values: Sequence[str]) -> models.Condition:
    """Returns the condition for the points of files."""
    return models.FieldCondition(key=PATH, match=models.MatchAny(any=list(values)))


def chunks(values: Sequence[str]) -> models.Condition:
    """Returns the condition for points by the ids of their chunks."""
    return models.FieldCondition(key=CHUNK, match=models.MatchAny(any=list(values)))


def _equals(key: str, value: str) -> models.Condition:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _range(key: str, **bounds: float) -> models.Condition:
    return models.FieldCondition(key=key, range=models.Range(**bounds))
