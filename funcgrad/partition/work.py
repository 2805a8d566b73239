"""The work of an operation: how many operations on numbers it takes, and how many bytes it moves.

An operation is counted as XLA counts it where XLA's count is that of the mathematics, else by hand:

| operation                       | flops                                                           |
|---------------------------------|-----------------------------------------------------------------|
| element by element              | one for each element of the result                              |
| an elementary function          | none; one transcendental for each element                       |
| `dot_general`                   | 2 n for each element, n the length of the contracted axes       |
| convolution                     | 2 for each product of an element and a weight, padding left out |
| reduction, running reduction    | one for each element but the first of each line                 |
| window                          | one for each place in it but the first                          |
| sort of a line of n             | n log2 n, rounded up                                            |
| Fourier transform of n          | 5 n log2 n; half of that where one side is real                 |
| Cholesky, LU, QR of n x n       | n^3/3, 2 n^3/3, 4 n^3/3, and for other shapes alike             |
| triangular solve                | n^2 for each column                                             |
| moving elements about           | none                                                            |

What no line is about has no count: `work_of` returns None, and does not guess. Those are iterative
methods (`eigh`, `svd`), random bits, callbacks, and primitives of other packages. A complex operation
counts as one, as XLA counts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax import lax

from funcgrad import _jax
from funcgrad._jax import Atom, Aval, ClosedJaxpr, Equation, Jaxpr, Primitive


@dataclass(frozen=True)
class Work:
    """How much is computed and moved.

    Attributes:
      flops: additions, multiplications, comparisons and the like, of any dtype.
      transcendentals: elementary and special functions, such as exp, sqrt and erf.
      bytes: read and written, as if each operation read its operands from memory and wrote its results
        there: XLA, which fuses operations, moves less.
    """

    flops: float = 0.0
    transcendentals: float = 0.0
    bytes: float = 0.0

    @property
    def operations(self) -> float:
        """Both kinds of operations together, an elementary function as one."""
        return self.flops + self.transcendentals

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.transcendentals + other.transcendentals,
            self.bytes + other.bytes,
        )

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.transcendentals * times, self.bytes * times)


SYMBOLIC = 128
"""What an axis of symbolic length counts for. It decides what is kept, and no value."""


def length_of(n: Any) -> int:
    """The length of an axis or of a loop, in the costs of a program."""
    return int(n) if isinstance(n, (int, np.integer)) else SYMBOLIC


def elements(aval: Aval) -> int:
    """How many elements a value of this type has."""
    return math.prod(map(length_of, getattr(aval, "shape", ())))


def bytes_of(aval: Aval) -> int:
    """The bytes that a value of this type takes."""
    parts = _jax.parts_of(aval)
    return sum(
        elements(part) * getattr(part.dtype, "itemsize", 8) for part in parts if _sized(part)
    )


def _sized(aval: Aval) -> bool:
    return hasattr(aval, "shape") and hasattr(aval, "dtype")


def work_of(eqn: Equation) -> Work | None:
    """The work of an equation that calls no function; None where no count of it is known."""
    primitive = eqn.primitive
    known = FLOPS.get(primitive)
    if known is not None:
        flops, transcendentals = known(eqn), 0.0
    elif primitive in TRANSCENDENTAL:
        flops, transcendentals = 0.0, float(_made(eqn))
    elif primitive in MOVES:
        flops, transcendentals = 0.0, 0.0
    elif primitive in ELEMENTWISE:
        flops, transcendentals = float(_made(eqn)), 0.0
    else:
        return None
    return None if flops is None else Work(flops, transcendentals, _moved(eqn))


def _primitives(*names: str) -> frozenset[Primitive]:
    """Those primitives of ``jax.lax`` that this version of JAX has."""
    found = (getattr(lax, f"{name}_p", None) for name in names)
    return frozenset(primitive for primitive in found if primitive is not None)


TRANSCENDENTAL = _primitives(
    *("exp", "exp2", "expm1", "log", "log1p", "log2", "logistic", "pow", "sqrt", "rsqrt", "cbrt"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    *(
        "erf",
        "erfc",
        "erf_inv",
        "lgamma",
        "digamma",
        "polygamma",
        "zeta",
        "bessel_i0e",
        "bessel_i1e",
    ),
    *("igamma", "igammac", "igamma_grad_a", "regularized_incomplete_beta"),
)
"""Elementary and special functions."""

ELEMENTWISE = _primitives(
    *("add", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "clamp", "square"),
    *("eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to", "is_finite", "nextafter"),
    *("ceil", "floor", "round", "reduce_precision", "convert_element_type", "select_n"),
    *("real", "imag", "complex", "conj", "and", "or", "xor", "not", "clz", "population_count"),
    *("shift_left", "shift_right_arithmetic", "shift_right_logical", "mulhi"),
) | {_jax.add_any_p}
"""Arithmetic, comparisons and selection: one operation for each element of the result."""

FREE = _primitives("reshape", "squeeze", "stop_gradient", "bitcast_convert_type") | {
    *(lax.optimization_barrier_p, _jax.checkpoint_name_p, _jax.reshard_p, _jax.held_p),
    *(_jax.random_wrap_p, _jax.random_unwrap_p, _jax.random_clone_p),
    *(p for p in (_jax.pvary_p, _jax.layout_constraint_p, _jax.platform_index_p) if p is not None),
    lax.sharding_constraint_p,
}
"""Operations that name the same bytes otherwise."""

MOVES = FREE | _primitives(
    *("broadcast_in_dim", "concatenate", "copy", "device_put", "dynamic_slice", "gather", "iota"),
    *("dynamic_update_slice", "pad", "rev", "scatter", "slice", "split", "stack", "tile"),
    *("transpose", "unstack"),
)
"""Operations that move elements about."""


# --- flops


def _made(eqn: Equation) -> int:
    return sum(elements(v.aval) for v in eqn.outvars)


def _shape(v: Atom) -> Any:
    return _jax.type_of(v).shape


def _dot_general(eqn: Equation) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = _shape(eqn.invars[0])
    return 2.0 * _made(eqn) * math.prod(length_of(shape[i]) for i in contracted)


def _convolution(eqn: Equation) -> float:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    lhs, rhs, out = _shape(eqn.invars[0]), _shape(eqn.invars[1]), _shape(eqn.outvars[0])
    products = 1.0
    for i, padding in enumerate(params["padding"]):
        products *= _products_along(
            length_of(lhs[numbers.lhs_spec[2 + i]]),
            length_of(rhs[numbers.rhs_spec[2 + i]]),
            length_of(out[numbers.out_spec[2 + i]]),
            (params["window_strides"][i], params["lhs_dilation"][i], params["rhs_dilation"][i]),
            length_of(padding[0]),
        )
    batch, features = (length_of(out[i]) for i in numbers.out_spec[:2])
    return 2.0 * products * batch * features * length_of(rhs[numbers.rhs_spec[1]])


def _products_along(
    size: int, kernel: int, out: int, steps: tuple[int, int, int], padding: int
) -> int:
    """Along one axis, how many pairs of an output and a weight meet an element of the input."""
    stride, lhs_dilation, rhs_dilation = steps
    found = 0
    for k in range(kernel):
        places = np.arange(out) * stride + k * rhs_dilation - padding
        inside = (places >= 0) & (places <= (size - 1) * lhs_dilation)
        found += int(np.count_nonzero(inside & (places % lhs_dilation == 0)))
    return found


def _reduction(eqn: Equation) -> float:
    """All elements of each line are put together, of one operand of each pair."""
    read = elements(eqn.invars[0].aval)
    return float(max(read - elements(eqn.outvars[0].aval), 0))


def _reduce(eqn: Equation) -> float | None:
    """A reduction by a function of the user's."""
    inner = total(eqn.params["jaxpr"])
    return None if inner is None else _reduction(eqn) * inner.operations


def _running(eqn: Equation) -> float:
    shape = _shape(eqn.invars[0])
    lines = elements(eqn.invars[0].aval) / max(length_of(shape[eqn.params["axis"]]), 1)
    return elements(eqn.invars[0].aval) - lines


def _window(eqn: Equation) -> float:
    return _made(eqn) * (math.prod(eqn.params["window_dimensions"]) - 1.0)


def _reduce_window(eqn: Equation) -> float | None:
    inner = total(eqn.params["jaxpr"])
    places = math.prod(eqn.params["window_dimensions"]) - 1.0
    return None if inner is None else elements(eqn.outvars[0].aval) * places * inner.operations


def _select_and_scatter_add(eqn: Equation) -> float:
    """Each window is searched, and what it is given is added to the element that is found."""
    return float(elements(eqn.invars[0].aval) * math.prod(eqn.params["window_dimensions"]))


def _scattered(eqn: Equation) -> float:
    return float(elements(eqn.invars[2].aval))


def _integer_pow(eqn: Equation) -> float:
    """Squaring again and again; a division where the exponent is negative."""
    n = abs(eqn.params["y"])
    products = max(n.bit_length() - 1 + n.bit_count() - 1, 0)
    return float(_made(eqn) * (products + (eqn.params["y"] < 0)))


def _sort(eqn: Equation) -> float:
    n = length_of(_shape(eqn.invars[0])[eqn.params["dimension"]])
    return float(elements(eqn.invars[0].aval) * _levels(n))


def _top_k(eqn: Equation) -> float:
    """The k greatest so far wait in a heap."""
    return float(elements(eqn.invars[0].aval) * max(_levels(eqn.params["k"]), 1))


def _levels(n: int) -> int:
    return math.ceil(math.log2(n)) if n > 1 else 0


def _fft(eqn: Equation) -> float:
    lengths = eqn.params["fft_lengths"]
    size = max(elements(eqn.invars[0].aval), elements(eqn.outvars[0].aval))
    is_real = not (_jax.is_complex(eqn.invars[0].aval) and _jax.is_complex(eqn.outvars[0].aval))
    return (2.5 if is_real else 5.0) * size * sum(math.log2(n) for n in lengths if n)


def _matrices(eqn: Equation) -> tuple[int, int, int]:
    """How many matrices the first operand holds, and their rows and columns."""
    *batch, m, n = map(length_of, _shape(eqn.invars[0]))
    return math.prod(batch), m, n


def _cholesky(eqn: Equation) -> float:
    count, n, _ = _matrices(eqn)
    return count * n**3 / 3


def _lu(eqn: Equation) -> float:
    count, m, n = _matrices(eqn)
    short, long = sorted((m, n))
    return count * (long * short**2 - short**3 / 3)


def _qr(eqn: Equation) -> float:
    """Householder's; a full Q costs as much again, and more."""
    count, m, n = _matrices(eqn)
    short, long = sorted((m, n))
    return count * (2 * long * short**2 - 2 * short**3 / 3)


def _householder_product(eqn: Equation) -> float:
    """Of k reflectors of m elements, the first n columns of their product."""
    count, m, n = _matrices(eqn)
    k = length_of(_shape(eqn.invars[1])[-1])
    return count * (4 * m * n * k - 2 * (m + n) * k**2 + 4 * k**3 / 3)


def _triangular_solve(eqn: Equation) -> float:
    n = length_of(_shape(eqn.invars[0])[-1])
    return float(elements(eqn.invars[1].aval) * n)


def _ragged_dot(eqn: Equation) -> float | None:
    """Each row is multiplied by one of the matrices."""
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    if set(numbers.lhs_ragged_dimensions) & set(contracted):
        return None
    shape = _shape(eqn.invars[0])
    return 2.0 * _made(eqn) * math.prod(length_of(shape[i]) for i in contracted)


def _polynomial(eqn: Equation) -> float:
    """Horner's rule: a product and a sum for each coefficient but the highest."""
    return 2.0 * _made(eqn) * (len(eqn.invars) - 2)


FLOPS: dict[Primitive, Callable[[Equation], float | None]] = {
    lax.dot_general_p: _dot_general,
    lax.conv_general_dilated_p: _convolution,
    lax.integer_pow_p: _integer_pow,
    lax.reduce_p: _reduce,
    lax.reduce_window_p: _reduce_window,
    lax.select_and_scatter_add_p: _select_and_scatter_add,
    lax.select_and_gather_add_p: _window,
    lax.sort_p: _sort,
    lax.top_k_p: _top_k,
    lax.fft_p: _fft,
    lax.linalg.cholesky_p: _cholesky,
    lax.linalg.lu_p: _lu,
    lax.linalg.householder_product_p: _householder_product,
    lax.linalg.triangular_solve_p: _triangular_solve,
    **dict.fromkeys(
        _primitives("reduce_sum", "reduce_prod", "reduce_max", "reduce_min"), _reduction
    ),
    **dict.fromkeys(_primitives("reduce_and", "reduce_or", "reduce_xor"), _reduction),
    **dict.fromkeys(_primitives("argmax", "argmin"), _reduction),
    **dict.fromkeys(_primitives("cumsum", "cumprod", "cummax", "cummin"), _running),
    **dict.fromkeys(_primitives("reduce_window_sum", "reduce_window_max"), _window),
    **dict.fromkeys(_primitives("reduce_window_min"), _window),
    **dict.fromkeys(_primitives("scatter_add", "scatter_sub", "scatter_mul"), _scattered),
    **dict.fromkeys(_primitives("scatter_min", "scatter_max"), _scattered),
}
"""The flops of operations that are not counted element by element."""

FLOPS |= {
    primitive: count
    for primitive, count in {
        _jax.ragged_dot_general_p: _ragged_dot,
        _jax.one_minus_square_p: lambda eqn: 2.0 * _made(eqn),
        _jax.polynomial_p: _polynomial,
    }.items()
    if primitive is not None
}


# --- bytes


def _moved(eqn: Equation) -> float:
    """The bytes that an equation reads and writes: of a part of an array, those of the part alone."""
    if eqn.primitive in FREE:
        return 0.0
    operands, results = [v.aval for v in eqn.invars], [v.aval for v in eqn.outvars]
    made = sum(map(bytes_of, results))
    if eqn.primitive in READS_A_PART:
        return float(2 * made + sum(map(bytes_of, operands[1:])))
    if eqn.primitive in WRITES_A_PART:
        update = bytes_of(operands[WRITES_A_PART[eqn.primitive]])
        others = sum(map(bytes_of, operands[1:])) - update
        reads = eqn.primitive not in (lax.scatter_p, lax.dynamic_update_slice_p)
        return float(update * (3 if reads else 2) + others)
    return float(made + sum(map(bytes_of, operands)))


READS_A_PART = _primitives("slice", "dynamic_slice", "gather", "split", "unstack")
"""Operations that read as much of the first operand as they return."""

WRITES_A_PART: dict[Primitive, int] = {
    lax.dynamic_update_slice_p: 1,
    **dict.fromkeys(_primitives("scatter", "scatter_add", "scatter_sub", "scatter_mul"), 2),
    **dict.fromkeys(_primitives("scatter_min", "scatter_max"), 2),
}
"""Operations that change a part of the first operand in place, and which operand the part is."""


# --- programs


def total(jaxpr: Any) -> Work | None:
    """The work of a jaxpr that calls no functions; None if some of it is not known."""
    found = Work()
    for eqn in _jax.close(jaxpr).jaxpr.eqns:
        own = work_of(eqn)
        if own is None:
            return None
        found += own
    return found


@dataclass(frozen=True)
class Part:
    """A function that an equation calls.

    Attributes:
      function: the function.
      steps: how often it runs; None where that is known at run time only.
      more: how much more often than `steps`: a loop's test runs once more than its body.
      is_branch: whether it is one of several, of which one runs.
    """

    function: ClosedJaxpr
    steps: int | None = 1
    more: int = 0
    is_branch: bool = False

    @property
    def jaxpr(self) -> Jaxpr:
        """The function's operations."""
        return self.function.jaxpr


def parts_of(eqn: Equation) -> list[Part] | None:
    """The functions that an equation calls; None if it calls none, or not in a way that is known."""
    known = CALLS.get(eqn.primitive)
    if known is not None:
        return known(eqn.params)
    if eqn.primitive in ONCE or "_prim" in eqn.params:
        return [Part(_jax.close(inner)) for inner in _jax.carried_functions(eqn.params)[:1]]
    return None


def _while(params: dict[str, Any]) -> list[Part]:
    test, body = (_jax.close(params[name]) for name in ("cond_jaxpr", "body_jaxpr"))
    return [Part(test, None, more=1), Part(body, None)]


def _on_a_mesh(params: dict[str, Any]) -> list[Part]:
    """The function runs on each device of its manual axes, on a part of the data."""
    shape, manual = params["mesh"].shape, params["newly_manual_axes"]
    devices = math.prod(size for axis, size in shape.items() if axis in manual)
    return [Part(_jax.close(params["jaxpr"]), devices)]


CALLS: dict[Primitive, Callable[[dict[str, Any]], list[Part]]] = {
    lax.scan_p: lambda params: [Part(_jax.close(params["jaxpr"]), length_of(params["length"]))],
    lax.while_p: _while,
    lax.cond_p: lambda params: [
        Part(_jax.close(branch), is_branch=True) for branch in params["branches"]
    ],
    lax.linear_solve_p: lambda params: [Part(_jax.close(params["jaxprs"].solve))],
    _jax.shard_map_p: _on_a_mesh,
}
"""Loops, branches, and what else calls a function otherwise than once."""

ONCE = frozenset(
    primitive
    for primitive in (
        *(
            _jax.jit_p,
            _jax.remat_p,
            _jax.custom_jvp_call_p,
            _jax.custom_vjp_call_p,
            *_jax.PLAIN_CALLS,
        ),
        *(_jax.custom_vmap_p, _jax.composite_p, _jax.compute_on_p, _jax.eval_jaxpr_p, _jax.fused_p),
        *(_jax.linear_call_p, _jax.remat_opt_p, _jax.xla_metadata_call_p),
        *(_jax.scheduling_group_call_p, _jax.custom_partitioning_p),
    )
    if primitive is not None
)
"""Calls of one function, once."""
