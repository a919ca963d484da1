"""Source code by its syntax: functions, methods, heads of classes, and the statements between them.

One cutter for every language in `grammars`. Decorators, attributes and comments right above a definition belong to it.
A node that is no definition is looked into where it is too large for a chunk, so that what stands in an `if`, in an
`#ifdef` or in a function that wraps the whole file is found too.
"""

import re
import time
from collections.abc import Iterator
from typing import Final

from tree_sitter import Node, Parser, Point, Tree

from sluice_retrieval.chunking.grammars import Grammar, load
from sluice_retrieval.chunking.outline import Definition, Outline, Prefix
from sluice_retrieval.chunking.spans import ChunkSizes, Text

_MAX_NAME_CHARS: Final = 120
_MAX_DECLARATORS: Final = 16
_PARSE_SECONDS: Final = 1.0
_PARSE_SECONDS_PER_BYTE: Final = 2e-6
"""CPU time for a file: many times what sources take. Some grammars take quadratic time over hostile input."""
_READ_BYTES: Final = 4096
_SMALL_BYTES: Final = 8192
_ARGUMENTS: Final = re.compile(r"<[\w\s,:*&'<>.?]*>(?=::|\.|$)|\[[\w\s,.*]*\]$")
_JOINTS: Final = re.compile(r"::|\\|->|\.prototype\.")


def parse(data: bytes, grammar: Grammar) -> Tree | None:
    """Returns the syntax tree, with errors where the source has some; None if that takes too long."""
    parser = Parser(load(grammar.module, grammar.function))
    if len(data) <= _SMALL_BYTES:
        return parser.parse(data)
    limit = time.process_time() + _PARSE_SECONDS + len(data) * _PARSE_SECONDS_PER_BYTE
    given_up = False

    def read(offset: int, _: Point) -> bytes:
        nonlocal given_up
        given_up = given_up or time.process_time() > limit
        return b"" if given_up else data[offset : offset + _READ_BYTES]

    tree = parser.parse(read)
    return None if given_up else tree


class Syntax:
    """The outline of one file."""

    def __init__(self, text: Text, grammar: Grammar, sizes: ChunkSizes) -> None:
        self._text = text
        self._grammar = grammar
        self._sizes = sizes
        self._bindings = {kind: (name, value) for kind, name, value in grammar.bindings}
        self._names = dict(grammar.names)

    def outline(self, node: Node, end: int, body: int = -1) -> Outline:
        """Yields what lies in a node, up to row `end`. `body` is the id of a child that is looked into whatever it is."""
        grammar, size, target = self._grammar, self._text.size, self._sizes.target
        attached, opened = grammar.attached, grammar.open
        stack: list[Iterator[Node]] = [iter(node.named_children)]
        at = last_end = last_row = -1  # ends of the last definition and statement; the last row that was yielded
        above_start = above_end = -1  # what belongs to the definition right below
        while stack:
            child = next(stack[-1], None)
            if child is None:
                stack.pop()
                continue
            first = child.start_point.row
            stop = min(_end_row(child), end)
            if first >= end or stop <= at:
                continue
            kind = child.type
            if kind in attached:
                if above_end == first:
                    above_end = stop
                elif first >= last_end:
                    above_start, above_end = first, stop
                if first > last_row:
                    last_row = first
                    yield first
                continue
            found = self._definition(child, kind)
            if found is not None:
                name, holder, inner = found
                if kind in grammar.prefixes and inner is None:
                    yield Prefix(name)
                else:
                    begin = above_start if above_end >= first else first
                    if begin >= at and stop > begin:
                        yield self._made(kind, name, holder, inner, begin, first, stop)
                        at = last_end = stop
                        above_end = -1
                        continue
            if first > last_row:
                last_row = first
                yield first
            if (
                kind in opened
                or kind == "ERROR"
                or child.id == body
                or (stop - first > 1 and size(first, stop) > target)
            ):
                stack.append(iter(child.named_children))
            else:
                above_end = -1
                last_end = max(last_end, stop)

    def _made(
        self, kind: str, name: str, holder: Node, body: Node | None, begin: int, first: int, stop: int
    ) -> Definition:
        sizes = self._sizes
        is_group = kind in self._grammar.groups
        head_end = first + 1
        if body is not None:
            row, column = body.start_point
            # The line on which the body begins belongs to the head unless the body has it for itself.
            head_end = max(head_end, row + (not self._text.lines[row][:column].isspace() and column > 0))
        return Definition(
            begin,
            stop,
            name,
            lambda: self.outline(holder, stop, body.id if body is not None else -1),
            head_start=first,
            head_end=min(head_end, stop),
            whole=sizes.small if is_group else sizes.target,
            tiny=0 if is_group else sizes.small // 4,
            joined=sizes.small,
        )

    def _definition(self, node: Node, kind: str) -> tuple[str, Node, Node | None] | None:
        """Returns the name of a definition, the node with its body, and the body; None if the node is no definition."""
        grammar = self._grammar
        binding = self._bindings.get(kind)
        if binding is not None:
            value = node.child_by_field_name(binding[1])
            if value is None or value.type not in grammar.values:
                return None
            name = _name(node.child_by_field_name(binding[0]))
            return (name, value, _body(value)) if name else None
        if kind not in grammar.units and kind not in grammar.groups and kind not in grammar.prefixes:
            return None
        body = _body(node)
        if kind.endswith("_specifier") and body is None:
            return None  # a mention of a type, not its definition
        field = self._names.get(kind, "name")
        if field.startswith("="):
            return field[1:], node, body
        name = _name(_declared(node.child_by_field_name(field)))
        if kind == "method_declaration" and grammar.module == "go":
            receiver = _receiver(node)
            name = f"{receiver}.{name}" if receiver else name
        if not name and kind in grammar.groups:
            return "", node, body  # e.g. a namespace without a name: what is in it counts
        return (name, node, body) if name else None


def _end_row(node: Node) -> int:
    """Returns the row after the node's last one."""
    end = node.end_point
    return end.row + 1 if end.column else end.row


def _body(node: Node) -> Node | None:
    body = node.child_by_field_name("body")
    if body is not None:
        return body
    for child in reversed(node.named_children[-2:]):
        if child.type.endswith(("_body", "block", "accessor_list", "struct_type", "interface_type")):
            return child
    return None


def _declared(node: Node | None) -> Node | None:
    """Returns the name in a declarator of C: pointers, parameters and brackets around it are left out."""
    for _ in range(_MAX_DECLARATORS):
        if node is None or not node.type.endswith("declarator"):
            return node
        inner = node.child_by_field_name("declarator")
        node = inner if inner is not None else next(iter(node.named_children), None)
    return None


def _receiver(node: Node) -> str:
    """Returns the type that a method of Go belongs to."""
    receiver = node.child_by_field_name("receiver")
    for parameter in receiver.named_children if receiver is not None else ():
        kind = parameter.child_by_field_name("type")
        if kind is not None:
            return _name(kind).lstrip("*")
    return ""


def _name(node: Node | None) -> str:
    """Returns a name as a dotted path, without type arguments."""
    if node is None or node.text is None:
        return ""
    name = node.text[: 4 * _MAX_NAME_CHARS].decode("utf-8", errors="replace")
    if name.isidentifier():
        return name[:_MAX_NAME_CHARS]
    name = " ".join(name.split())
    for _ in range(4):
        shorter = _ARGUMENTS.sub("", name)
        if shorter == name:
            break
        name = shorter
    return _JOINTS.sub(".", name).strip("&*\"'`$ .").removesuffix("()")[:_MAX_NAME_CHARS]
