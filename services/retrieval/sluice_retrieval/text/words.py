"""Words of code and prose.

Identifiers are split at underscores, at hyphens, at changes of case, and around digits; paths of names at `.`, `::`
and `->`. The whole name is kept beside its parts, so that `parse_http2_frame` is found by itself, by `parse` and by
`Http2Frame`; it is written one way, so that the flag `--dry-run` finds the variable `dry_run`. All is lower case. Words
without meaning in a question ("what", "does") are left out, English endings are cut lightly, and short forms that code
is full of stand for the word as well, on both sides alike.
"""

import re
from typing import Final

_NAME: Final = re.compile(r"[^\W\d]\w*(?:(?:\.|-|::|->)[^\W\d]\w*)*|\d+(?:\.\d+)*")
# A run of capitals is a word up to the last one, which begins the next: HTTPServer is HTTP, Server.
_PART: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_MAX_DOTS: Final = 4
_MAX_WORD_CHARS: Final = 96
_MIN_STEM_CHARS: Final = 3

_STOP_WORDS: Final = """
    a about also an and any are as at be because been but by can could did do does doing for from had has have how i if
    in into is it its me my of on or our should so some such than that the their them then there these they this those
    to was we were what when where which who why will with would you your
"""
STOP_WORDS: Final = frozenset(_STOP_WORDS.split())
"""Left out of texts and questions. None is a keyword that people search code for, such as `not` or `while`."""


_SHORT_FORMS: Final = """
    addr:address arg:argument args:arguments attr:attribute attrs:attributes auth:authentication buf:buffer cfg:config
    conf:config conn:connection ctx:context decl:declaration del:delete dict:dictionary dir:directory dst:destination
    env:environment err:error exc:exception fmt:format fn:function func:function id:identifier impl:implementation
    info:information int:integer len:length max:maximum min:minimum msg:message num:number
    param:parameter params:parameters prev:previous ref:reference req:request resp:response src:source str:string
    tmp:temporary val:value
"""


def words_of(name: str) -> tuple[str, ...]:
    """Returns the words that one name stands for: itself if it has parts, its parts, and what these are short for."""
    found: list[str] = []
    if not name.isalnum():
        name = name.replace("::", ".").replace("->", ".").replace("-", "_")
    pieces = name.split(".")
    if 1 < len(pieces) <= _MAX_DOTS:
        found.append(name.lower())
    for piece in pieces:
        runs = [run for run in piece.split("_") if run]
        if len(runs) > 1:
            found.append(piece.strip("_").lower())
        for run in runs:
            parts = _PART.findall(run) if run.isascii() else [run]
            if len(parts) > 1:
                found.append(run.lower())
            for part in map(str.lower, parts):
                if part not in STOP_WORDS:
                    found.append(stem(part))
                    if part in _LONG_FORMS:
                        found.append(_LONG_FORMS[part])
    return tuple(word[:_MAX_WORD_CHARS] for word in found)


def stem(word: str) -> str:
    """Returns the word without an English plural or verb ending: `indexes`, `indexing` and `indexed` become `index`."""
    if len(word) <= _MIN_STEM_CHARS or not word.isascii():
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        base = word[: -len(ending)]
        if word.endswith(ending) and len(base) >= _MIN_STEM_CHARS and any(vowel in base for vowel in "aeiouy"):
            doubled = base[-1] == base[-2] and base[-1] not in "lsz"
            word = base[:-1] + "y" if base[-1] == "i" else base[:-1] if doubled else base
            break
    return word[:-1] if word.endswith("e") and len(word) > _MIN_STEM_CHARS + 1 else word


_LONG_FORMS: Final = {short: stem(word) for short, _, word in (pair.partition(":") for pair in _SHORT_FORMS.split())}


def words(text: str) -> list[str]:
    """Returns the words of a text, in order, repeats included."""
    found: list[str] = []
    for name in names(text):
        found += words_of(name)
    return found


def names(text: str) -> list[str]:
    """Returns the names and numbers of a text, unsplit, in order, repeats included."""
    found: list[str] = _NAME.findall(text)
    return found
