"""What values are called: as in the user's source where that is certain, else by a letter.

A value has the name of an argument, the name that ``checkpoint_name`` gave it, or that of the variable
in ``h = jnp.tanh(w @ x)``: the statement assigns to one name, and the value is the last that the whole
right side computes. Python says for each operation which expression was being evaluated, to the column.
A call on the right side must be of a function that returns one array, of those that are listed here.
"""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterator
from itertools import count

import numpy as np

from funcgrad import _jax
from funcgrad._jax import Var
from funcgrad.inspect.graphs.nodes import Graph, TensorNode
from funcgrad.places.program import Block, Place

Span = tuple[int, int, int, int]
"""First line and column, last line and column."""

OF_NUMPY = {name for name in dir(np) if isinstance(getattr(np, name), np.ufunc)} - {
    "divmod", "frexp", "modf",
}  # fmt: skip

ARRAY_FUNCTIONS = OF_NUMPY | {
    "sum", "mean", "prod", "max", "min", "std", "var", "cumsum", "cumprod", "dot", "vdot", "inner",
    "outer", "tensordot", "einsum", "matmul", "where", "reshape", "ravel", "transpose", "swapaxes",
    "squeeze", "expand_dims", "broadcast_to", "concatenate", "stack", "take", "take_along_axis", "pad",
    "roll", "flip", "clip", "sort", "tile", "repeat", "astype", "norm", "relu", "sigmoid", "softmax",
    "log_softmax", "gelu", "silu", "swish", "elu", "softplus", "leaky_relu", "logsumexp", "rsqrt",
    "logistic", "dot_general", "stop_gradient",
}  # fmt: skip
"""Functions of JAX's, and methods of arrays, that return one array, the last that they compute."""

ARRAY_ATTRIBUTES = {"T", "mT", "real", "imag"}


def give(graph: Graph, values: dict[tuple[Block, Var], TensorNode], names: list[str]) -> None:
    """Name all values of a graph; `names` are those of the function's arguments."""
    wanted = {}
    for tensor, name in zip(graph.inputs, names, strict=True):
        wanted[tensor] = name
    for block in dict.fromkeys(block for block, _ in values):
        for v, name in _known(block):
            wanted.setdefault(values[block, v], name)
    used: dict[str, int] = {}
    letters = (letter(i) for i in count())
    taken = set(wanted.values())
    for tensor in sorted(values.values(), key=lambda tensor: tensor.index):
        name = wanted.get(tensor)
        if name is None:
            name = next(a for a in letters if a not in taken)
        used[name] = used.get(name, 0) + 1
        tensor.name = name if used[name] == 1 else f"{name}.{used[name]}"


def letter(number: int) -> str:
    """``a`` to ``z``, then ``aa``, ``ab``, as a jaxpr names its variables."""
    found = ""
    while number >= 0:
        found = chr(ord("a") + number % 26) + found
        number = number // 26 - 1
    return found


def _known(block: Block) -> Iterator[tuple[Var, str]]:
    """The variables of a block whose names are certain."""
    if block.call is not None:
        pairs = zip(block.jaxpr.invars, _jax.names_of_inputs(block.jaxpr), strict=False)
        yield from ((v, name) for v, name in pairs if name)
    for place in block.places:
        if place.name is not None:
            yield place.equation.outvars[0], place.name
    yield from _assigned(block)


def _assigned(block: Block) -> Iterator[tuple[Var, str]]:
    """The variables that are the last values of statements that assign to one name."""
    ends: list[tuple[Place, tuple[str, Span] | None]] = []
    for place in block.places:
        found = _expression(place, block)
        if ends and ends[-1][1] == found:
            ends.pop()  # an earlier value of the same expression
        ends.append((place, found))
    for place, found in ends:
        name = None if found is None else _targets(found[0]).get(found[1])
        if name is not None and len(place.equation.outvars) == 1:
            yield place.equation.outvars[0], name


def _expression(place: Place, block: Block) -> tuple[str, Span] | None:
    """The file and the span of the expression that was evaluated in the user's source.

    The variables of installed packages are not the user's.
    In a function that an operation carries, one frame must be that function's: JAX traces a function
    once, and other frames may be those of another call.
    """
    frames = place.frames
    if not frames or "site-packages" in frames[0].file:
        return None
    if block.call is not None:
        name, _, rest = _jax.function_of(_jax.close(block.jaxpr)).partition(" at ")
        file = rest.rpartition(":")[0]
        if not any(f.file == file and f.function.split(".")[-1] == name for f in frames):
            return None
    return frames[0].file, frames[0].span


@functools.lru_cache(maxsize=256)
def _targets(file: str) -> dict[Span, str]:
    """Of each statement of a file that assigns to one name, the span of its right side, and the name."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    found: dict[Span, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _is_last(value):
                found[_span(value)] = name
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if _is_last(
                value
            ):
                found[_span(value)] = name
            case ast.AugAssign(target=ast.Name(id=name)):
                found[_span(node)] = name
    return found


def _is_last(value: ast.expr) -> bool:
    """Whether an expression's value is the last that is computed for it."""
    match value:
        case ast.BinOp() | ast.UnaryOp() | ast.Compare(ops=[_]) | ast.Subscript():
            return True
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name in ARRAY_FUNCTIONS
        case ast.Attribute(attr=name):
            return name in ARRAY_ATTRIBUTES
    return False


def _span(node: ast.expr | ast.stmt) -> Span:
    return (
        node.lineno,
        node.col_offset,
        node.end_lineno or node.lineno,
        node.end_col_offset or node.col_offset,
    )
