"""What is written in the nodes of a picture, and how large the nodes are for it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from funcgrad.inspect.graphs.drawing import text
from funcgrad.inspect.graphs.drawing.groups import Group, Item, size
from funcgrad.inspect.graphs.drawing.views import Shown
from funcgrad.inspect.graphs.nodes import OpNode, TensorNode
from funcgrad.places.program import is_vmapped_loop

PLUMBING = {
    "broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "expand_dims", "copy", "copy_p",
    "sharding_constraint", "name", "optimization_barrier", "stop_gradient", "pvary",
}  # fmt: skip
"""Operations that move or rename numbers: they are drawn quietly."""

TOLD = {
    "integer_pow": "y", "transpose": "permutation",
    "reduce_sum": "axes", "reduce_max": "axes", "reduce_min": "axes", "argmax": "axes", "argmin": "axes",
    "cumsum": "axis", "concatenate": "dimension", "iota": "dimension", "name": "name",
}  # fmt: skip
"""The param that is written beside an operation's name."""

NAME, SMALL_PRINT, NUMBER = 12.0, 10.0, 11.0
"""Sizes of fonts."""

PADDING, SPACE, GAP = 8, 6, 18
"""Left and right of a node's text, between the parts of a line, and between value and gradient."""

AtStep = int | Sequence[int]
"""A step of all loops around a value, or one of each, from the outside in; -1 is the last."""

HEAD, ROW, FOOT = 20, 14, 4
"""The heights of a node's first line, of a line of numbers, and of what is below them."""


@dataclass(frozen=True)
class Part:
    """A part of a line of text.

    Attributes:
      kind: its class: ``"variable"``, ``"type"``, ``"name"`` or ``"note"``.
      text: the text.
      size: the size of its font.
    """

    kind: str
    text: str
    size: float

    @property
    def width(self) -> float:
        """How wide it is, at most: as wide for ``a`` as for ``aaa``, so that layers look alike."""
        if self.kind == "variable":
            alike = re.sub(r"\.\d$", ".00", self.text).ljust(3)
            return text.width(alike, self.size, mono=True)
        is_mono, is_bold = self.kind == "type", self.kind == "name"
        return text.width(self.text, self.size, mono=is_mono, bold=is_bold)


@dataclass
class Numbers:
    """Numbers, row by row: those of a value, or of its gradient.

    Attributes:
      kind: ``"value"`` or ``"gradient"``.
      x: where they begin.
      row: how many rows are above them.
      rows: the rows.
    """

    kind: str
    x: float
    row: int
    rows: list[str]


@dataclass
class Label:
    """A node of a picture.

    Attributes:
      kind: the node's classes.
      width: the node's width.
      height: its height.
      lines: its lines of text, each in the middle of the node.
      numbers: what stands below them.
      title: what is shown to a reader who points at it.
    """

    kind: str
    width: float
    height: float
    lines: list[tuple[Part, ...]]
    numbers: list[Numbers] = field(default_factory=list)
    title: str = ""


def of_values(shown: Shown, inside: Collection[str], step: AtStep | None = None) -> Label:
    """The label of a value, or of several.

    Args:
      shown: the values.
      inside: the names that a reader sees around them.
      step: of which step of the loops around it a value's numbers are; None for no such numbers.
    """
    tensor = shown.values[0].tensor
    names = [("entering", shown.is_entering), ("leaving", shown.is_leaving)]
    names.append(("result", shown.values[0].is_result))
    kind = " ".join(["tensor", tensor.kind, *(name for name, holds in names if holds)])
    title = "\n".join(_told(value.tensor) for value in shown.values[:30])
    if len(shown.values) == 1:
        label = _of_value(tensor, kind, inside, step)
    else:
        several = "arguments" if tensor.kind == "argument" else "values"
        label = _label(f"{kind} several", Part("variable", f"{len(shown.values)} {several}", NAME))
    label.title = title
    return label


def of_item(item: Item, numbers: Mapping[TensorNode, TensorNode]) -> Label:
    """The label of an operation or of a group; `numbers` are those in the code around a call."""
    return _of_op(item, numbers) if isinstance(item, OpNode) else _of_group(item)


def without_numbers(call: OpNode) -> str:
    """Why the values inside a call have no numbers."""
    if call.op.name.startswith("custom_jvp"):
        return "Nothing in here has a cotangent: the function's own tangent rule is walked back."
    if call.op.name.startswith("custom_vjp"):
        return "Nothing in here has a cotangent: the function's own backward function runs."
    if call.op.is_caught or call.op.backward is not None:
        return f"Nothing in here has a cotangent: the rule of {text.clipped(call.op.name)} runs."
    if is_vmapped_loop(call.place.equation):
        return "Nothing in here has numbers: the examples of a vmapped loop end at different steps."
    return f"Values in here were not recorded: {text.clipped(call.op.name)} is not entered."


def caption_width(caption: str) -> float:
    """The width of the line below a picture."""
    return text.width(caption, SMALL_PRINT)


def heading(group: Group) -> str:
    """What is written above a frame."""
    return text.clipped(group.name, 30)


def heading_width(group: Group) -> float:
    """The width of a frame's heading."""
    return text.width(heading(group), SMALL_PRINT + 1)


def _of_value(tensor: TensorNode, kind: str, inside: Collection[str], step: AtStep | None) -> Label:
    maker = tensor.maker
    is_quiet = maker is not None and maker.op.name in PLUMBING and not tensor.is_result
    name = text.short_name(tensor.name, inside)
    parts = [Part("variable", name, NAME), Part("type", text.type_of(tensor.aval), SMALL_PRINT)]
    number = _step_of(tensor, step)
    known = [("value", tensor.value), ("gradient", tensor.gradient)] if number is not None else []
    of_step = [(name, x if x is None or not number else x[number]) for name, x in known]
    tables = [(name, rows) for name, value in of_step if (rows := text.table(value))]
    if tables and number:
        pairs = zip(tensor.axes, number, strict=True)
        shown = ", ".join(f"{axis} {i + 1}" for axis, i in pairs)
        parts.append(Part("type", shown, SMALL_PRINT))
    label = _label(f"{kind} quiet" if is_quiet else kind, *parts)
    if tables:
        _add_numbers(label, tables)
    return label


def _step_of(tensor: TensorNode, step: AtStep | None) -> tuple[int, ...] | None:
    """The step of each scan around a value; None if the value was not computed in that step."""
    if not tensor.steps:
        return ()
    if step is None or tensor.value is None:
        return None
    lengths = tensor.value.shape[: tensor.steps]
    asked = [step] * len(lengths) if isinstance(step, int) else [*step][: len(lengths)]
    asked += [-1] * (len(lengths) - len(asked))
    number = tuple(i + length if i < 0 else i for i, length in zip(asked, lengths, strict=True))
    if not all(0 <= i < length for i, length in zip(number, lengths, strict=True)):
        return None
    return None if tensor.present is not None and not tensor.present[number] else number


def _add_numbers(label: Label, tables: list[tuple[str, list[list[str]]]]) -> None:
    """Write numbers below the first line: value and gradient beside each other, or vectors as rows."""
    is_vector = all(len(rows) == 1 and len(rows[0]) > 1 for _, rows in tables)
    widest = max(len(cell) for _, rows in tables for row in rows for cell in row)
    columns = [(name, text.lines(rows, widest if is_vector else 0)) for name, rows in tables]
    widths = [text.width(lines[0], NUMBER, mono=True) for _, lines in columns]
    whole = max(widths) if is_vector else sum(widths) + GAP * (len(widths) - 1)
    label.width = max(label.width, whole + 2 * PADDING)
    x, row = (label.width - whole) / 2, 0
    for (kind, lines), across in zip(columns, widths, strict=True):
        label.numbers.append(Numbers(kind, x, row, lines))
        x, row = (x, row + 1) if is_vector else (x + across + GAP, 0)
    deepest = max(numbers.row + len(numbers.rows) for numbers in label.numbers)
    label.height = HEAD + ROW * deepest + FOOT


def _of_op(node: OpNode, numbers: Mapping[TensorNode, TensorNode]) -> Label:
    is_quiet = node.op.name in PLUMBING
    note = _literals([numbers.get(t, t) for t in node.inputs]) or _param(node)
    parts = [Part("name", text.clipped(node.op.name), NAME - is_quiet)]
    parts += [Part("note", note, SMALL_PRINT)] if note else []
    label = _label("op quiet" if is_quiet else "op", *parts)
    label.height = 20 if is_quiet else 25
    rule = node.op.backward
    told = [f"{node.op.name}: {', '.join(text.type_of(t.aval) for t in node.outputs)}"]
    told += [node.where_in_short, node.scope, "" if rule is None else f"rule: {rule.name}"]
    label.title = "\n".join(line for line in told if line)
    return label


def _of_group(group: Group) -> Label:
    name = Part("name", text.clipped(group.name, 30), NAME)
    count = f"{size(group)} operation" + "s" * (size(group) != 1)
    note = Part("note", " · ".join([*_kind(group), count]), SMALL_PRINT)
    label = _label("group", name)
    label.title = f"{group.kind} {group.name}\n{note.text}"
    if _is_one(group):
        label.kind, label.height = "group whole", 25
        return label
    label.lines.append((note,))
    label.width = max(label.width, note.width + 2 * PADDING)
    label.height = 2 * HEAD
    return label


def _is_one(group: Group) -> bool:
    """Whether the walk back takes a call as one operation: it has a rule or a derivative of its own."""
    return group.sealed and (
        group.calls[-1].op.backward is not None or group.kind.startswith("custom")
    )


def _kind(group: Group) -> list[str]:
    """What a call does, where it is more than to call."""
    if group.kind == "scan":
        return [f"scan, {group.calls[-1].params['length']} steps"]
    return [group.kind] if group.sealed else []


def _label(kind: str, *parts: Part) -> Label:
    """A label of one line."""
    across = sum(part.width for part in parts) + SPACE * (len(parts) - 1)
    return Label(kind, max(30.0, across + 2 * PADDING), HEAD + 3, [parts])


def _literals(operands: Sequence[TensorNode]) -> str:
    """The numbers among an operation's operands: ``(1.0, ·)``; empty if there are none."""
    shown = [_literal(t) if t.kind == "literal" and not t.shape else "·" for t in operands]
    return f"({', '.join(shown)})" if any(one != "·" for one in shown) else ""


def _literal(tensor: TensorNode) -> str:
    rows = text.table(tensor.value) if len(tensor.name) > 6 else []
    return rows[0][0] if rows else tensor.name


def _param(node: OpNode) -> str:
    """The param that says what an operation does; empty for most."""
    name = TOLD.get(node.op.name)
    return "" if name is None else text.clipped(f"{name}={node.params.get(name)}", 18)


def _told(tensor: TensorNode) -> str:
    return f"{tensor.name}: {text.type_of(tensor.aval)} ({tensor.kind})"
