"""What the cutter has to know of each language that has a grammar: names of nodes, nothing else.

A grammar is loaded when the first file of its language is cut.
"""

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Final

from tree_sitter import Language


@dataclass(frozen=True, slots=True)
class Grammar:
    """The nodes of one language that mean something to search."""

    module: str
    """Package of the grammar, `tree_sitter_` left out."""
    units: frozenset[str]
    """Definitions that stay whole while they fit a chunk: functions, and types without methods of their own."""
    groups: frozenset[str] = frozenset()
    """Definitions that are cut into their members unless they are small: classes, namespaces."""
    open: frozenset[str] = frozenset()
    """Nodes whose children count as if they stood in their place: exports, conditional sections, assignments."""
    attached: frozenset[str] = frozenset({"comment"})
    """What belongs to the definition right below it: comments, attributes, decorators."""
    bindings: frozenset[tuple[str, str, str]] = frozenset()
    """Nodes that name a function by assigning it: type, field of the name, field of the value."""
    values: frozenset[str] = frozenset()
    """What makes a binding a definition."""
    names: frozenset[tuple[str, str]] = frozenset()
    """Where the name is not in the field `name`: type and field, or type and `=` with the name itself."""
    prefixes: frozenset[str] = frozenset()
    """Namespaces that hold for the rest of the file if they have no body."""
    function: str = "language"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> frozenset[tuple[str, str]]:
    return frozenset((left, right) for left, _, right in (item.partition(":") for item in text.split()))


_JAVASCRIPT: Final = Grammar(
    "javascript",
    units=_words("function_declaration generator_function_declaration method_definition"),
    groups=_words("class_declaration"),
    open=_words("export_statement expression_statement lexical_declaration variable_declaration"),
    attached=_words("comment decorator"),
    bindings=frozenset(
        {
            ("variable_declarator", "name", "value"),
            ("assignment_expression", "left", "right"),
            ("pair", "key", "value"),
            ("field_definition", "property", "value"),
            ("public_field_definition", "name", "value"),
        }
    ),
    values=_words("arrow_function function_expression generator_function class"),
)
_TYPESCRIPT: Final = Grammar(
    "typescript",
    units=_JAVASCRIPT.units
    | _words(
        "function_signature method_signature abstract_method_signature interface_declaration enum_declaration"
        " type_alias_declaration"
    ),
    groups=_words("class_declaration abstract_class_declaration module internal_module"),
    open=_JAVASCRIPT.open | _words("ambient_declaration statement_block"),
    attached=_JAVASCRIPT.attached,
    bindings=_JAVASCRIPT.bindings,
    values=_JAVASCRIPT.values,
    function="language_typescript",
)
_C: Final = Grammar(
    "c",
    units=_words(
        "function_definition struct_specifier union_specifier enum_specifier type_definition preproc_function_def"
    ),
    open=_words(
        "preproc_if preproc_ifdef preproc_else preproc_elif preproc_elifdef linkage_specification declaration_list"
    ),
    names=_pairs("function_definition:declarator type_definition:declarator"),
)
_PYTHON: Final = Grammar(
    "python",
    units=_words("function_definition"),
    groups=_words("class_definition"),
    open=_words("decorated_definition"),
    attached=_words("comment decorator"),
)

GRAMMARS: Final = {
    "python": _PYTHON,
    "starlark": _PYTHON,
    "javascript": _JAVASCRIPT,
    "typescript": _TYPESCRIPT,
    "tsx": Grammar(
        "typescript",
        units=_TYPESCRIPT.units,
        groups=_TYPESCRIPT.groups,
        open=_TYPESCRIPT.open,
        attached=_TYPESCRIPT.attached,
        bindings=_TYPESCRIPT.bindings,
        values=_TYPESCRIPT.values,
        function="language_tsx",
    ),
    "go": Grammar(
        "go",
        units=_words("function_declaration method_declaration type_spec type_alias"),
        open=_words("type_declaration"),
    ),
    "rust": Grammar(
        "rust",
        units=_words(
            "function_item function_signature_item struct_item enum_item union_item macro_definition type_item"
        ),
        groups=_words("impl_item trait_item mod_item"),
        open=_words("foreign_mod_item declaration_list"),
        attached=_words("line_comment block_comment attribute_item"),
        names=_pairs("impl_item:type"),
    ),
    "java": Grammar(
        "java",
        units=_words("method_declaration constructor_declaration compact_constructor_declaration"),
        groups=_words(
            "class_declaration interface_declaration enum_declaration record_declaration annotation_type_declaration"
        ),
        open=_words("enum_body_declarations"),
        attached=_words("line_comment block_comment"),
    ),
    "c": _C,
    "cpp": Grammar(
        "cpp",
        units=_C.units | _words("concept_definition alias_declaration") - _words("struct_specifier union_specifier"),
        groups=_words("class_specifier struct_specifier union_specifier namespace_definition"),
        open=_C.open | _words("template_declaration"),
        attached=_words("comment template_parameter_list access_specifier"),
        names=_C.names,
    ),
    "csharp": Grammar(
        "c_sharp",
        units=_words(
            "method_declaration constructor_declaration destructor_declaration operator_declaration"
            " conversion_operator_declaration indexer_declaration property_declaration event_declaration"
            " enum_declaration delegate_declaration local_function_statement"
        ),
        groups=_words(
            "class_declaration struct_declaration interface_declaration record_declaration namespace_declaration"
        ),
        open=_words("global_statement"),
        names=_pairs("operator_declaration:operator conversion_operator_declaration:type indexer_declaration:=this"),
        prefixes=_words("file_scoped_namespace_declaration"),
    ),
    "ruby": Grammar(
        "ruby",
        units=_words("method singleton_method"),
        groups=_words("class module"),
        open=_words("call argument_list singleton_class body_statement"),
    ),
    "php": Grammar(
        "php",
        units=_words("function_definition method_declaration"),
        groups=_words(
            "class_declaration interface_declaration trait_declaration enum_declaration namespace_definition"
        ),
        open=_words("expression_statement"),
        attached=_words("comment attribute_list"),
        bindings=frozenset({("assignment_expression", "left", "right")}),
        values=_words("anonymous_function arrow_function"),
        prefixes=_words("namespace_definition"),
        function="language_php",
    ),
    "kotlin": Grammar(
        "kotlin",
        units=_words("function_declaration secondary_constructor type_alias"),
        groups=_words("class_declaration object_declaration companion_object"),
        attached=_words("line_comment block_comment"),
        names=_pairs("companion_object:=Companion secondary_constructor:=constructor type_alias:type"),
    ),
}
"""By the name of the language."""


@cache
def load(module: str, function: str) -> Language:
    """Returns a grammar, loaded once in a process."""
    return Language(getattr(importlib.import_module(f"tree_sitter_{module}"), function)())
