"""What a statement of a random program can compute: a table of templates over typed operands."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from funcgrad.testing.fuzz.programs import Type

HOLES = {
    "f": "a real array",
    "v": "a real array of rank 1 or more",
    "m": "a real array of rank 2 or more",
    "p": "a real array that broadcasts against the first operand",
    "s": "an array like the first operand",
    "z": "a complex array",
    "i": "an integer array",
    "b": "a boolean array like the first operand",
}


@dataclass(frozen=True)
class Word:
    """One entry: `text` has a place ``{0}``, ``{1}``, ... for each letter of `holes`.

    Attributes:
      text: an expression; ``<name>`` is a constant drawn by `CONSTANTS`.
      holes: what the operands are, see `HOLES`.
      weight: how often it is drawn, relative to others.
      order: 1 where JAX has no second derivative.
      smooth: False where finite differences mean nothing.
      batched: False where ``jax.vmap`` has no rule.
      bare: JAX has errors of its own where this is in a ``jax.checkpoint`` or a custom rule.
      double: it is for float64 and complex128 alone.
    """

    text: str
    holes: str = "f"
    weight: float = 1.0
    order: int = 2
    smooth: bool = True
    batched: bool = True
    bare: bool = False
    double: bool = False


def words(holes: str, *texts: str, **options: Any) -> list[Word]:
    return [Word(text, holes, **options) for text in texts]


# --- constants, drawn for the type of the first operand


def axis(random: Any, kind: Type) -> str:
    return str(random.randrange(len(kind.shape)))


def axes(random: Any, kind: Type) -> str:
    some = [i for i in range(len(kind.shape)) if random.random() < 0.6]
    return str(tuple(some or range(len(kind.shape))))


def permutation(random: Any, kind: Type) -> str:
    order = list(range(len(kind.shape)))
    random.shuffle(order)
    return str(tuple(order))


def flag(random: Any, kind: Type) -> str:
    return str(random.random() < 0.5)


def flat(random: Any, kind: Type) -> str:
    """A shape with as many elements."""
    size = math.prod(kind.shape)
    return str(random.choice([(size,), (1, size), (size, 1), kind.shape[::-1], (size, 1, 1)]))


def bounds(random: Any, kind: Type) -> str:
    """start, limit and stride of a slice."""
    spans = [_span(random, n) for n in kind.shape]
    return ", ".join(str(tuple(s[i] for s in spans)) for i in range(3))


def _span(random: Any, size: int) -> tuple[int, int, int]:
    start = random.randrange(max(1, size))
    return start, random.randrange(min(start + 1, size), size + 1), random.randrange(1, 3)


def padding(random: Any, kind: Type) -> str:
    each = [
        (random.randrange(-1, 3), random.randrange(0, 2), random.randrange(2)) for _ in kind.shape
    ]
    return str(tuple(each))


def number(random: Any, kind: Type) -> str:
    return str(random.randrange(3))


def factor(random: Any, kind: Type) -> str:
    return str(random.choice([0.5, -0.7, 1.3, 2.0]))


def copies(random: Any, kind: Type) -> str:
    return str(tuple(random.randrange(1, 3) for _ in kind.shape))


def mode(random: Any, kind: Type) -> str:
    return repr(random.choice(["clip", "fill", "promise_in_bounds", "wrap"]))


CONSTANTS: dict[str, Callable[[Any, Type], str]] = {
    f.__name__: f
    for f in (axis, axes, permutation, flag, flat, bounds, padding, number, factor, copies, mode)
}

# --- the table

ELEMENTWISE = [
    *words(
        "f",
        *(
            f"lax.{name}({{0}})"
            for name in ["neg", "sin", "cos", "tanh", "logistic", "asinh", "erf", "erfc", "square"]
        ),
        *(f"lax.{name}(squash({{0}}))" for name in ["tan", "exp", "exp2", "expm1", "sinh", "cosh"]),
        *(
            f"lax.{name}(squash({{0}}))"
            for name in ["asin", "acos", "atan", "atanh", "log1p", "erf_inv"]
        ),
        *(f"lax.{name}(positive({{0}}))" for name in ["log", "sqrt", "rsqrt", "cbrt"]),
        "lax.acosh(1.0 + positive({0}))",
        "lax.integer_pow({0}, 3)",
        "lax.integer_pow(positive({0}), -2)",
        "jnp.abs({0})",
        "lax.sign({0}) * {0}",
        "<factor> * {0}",
        "1.0 + {0}",
        "{0} + lax.floor({0})",
        "{0} - lax.round({0})",
        "{0} * lax.ceil({0})",
        "jnp.where(lax.is_finite({0}), {0}, 0.0)",
        "kept({0})",
        "jax.named_call(lax.sin, name='called')({0})",
        "lax.optimization_barrier({0})",
        "{0} + 0.0",
        "jnp.copy({0})",
        "jax.device_put({0})",
        "{0}.astype({0}.dtype)",
        "lax.convert_element_type({0} > 0, {0}.dtype) * {0}",
    ),
    *words(
        "f",
        *(f"lax.{name}(0.5 + positive({{0}}))" for name in ["lgamma", "digamma", "bessel_i0e"]),
        "lax.bessel_i1e({0})",
        "lax.polygamma(jnp.full_like({0}, 2.0), positive({0}))",
        weight=0.15,
    ),
    *words(
        "f",
        "lax.igamma(positive({0}), positive({0}))",
        "lax.igammac(jnp.full_like({0}, 1.5), positive({0}))",
        "lax.betainc(jnp.full_like({0}, 1.5), jnp.full_like({0}, 0.7), 0.5 + 0.4 * squash({0}))",
        weight=0.05,
        order=1,
    ),
    *words(
        "f",
        "lax.reduce_precision({0}, 8, 10)",
        "lax.stop_gradient({0}) * {0}",
        weight=0.2,
        smooth=False,
    ),
    *words(
        "f",
        "jax.random.gamma(jax.random.key(<number>), positive({0}))",
        weight=0.05,
        order=1,
        smooth=False,
    ),
    *words(
        "fp",
        *(f"{{0}} {sign} {{1}}" for sign in "+-**+"),
        "{0} / positive({1})",
        "positive({0}) ** squash({1})",
        "jnp.arctan2({0}, positive({1}))",
        "jnp.maximum({0}, {1})",
        "jnp.minimum({0}, {1})",
        "lax.rem(*jnp.broadcast_arrays({0}, positive({1})))",
        "jnp.where({0} > {1}, {0}, {1} * {1})",
        "jnp.where({0} <= 0, {1}, jnp.sin({1}))",
        "jnp.where(({0} >= 0) ^ ({1} < 0.5) | ~({0} != 1) & ({1} == 1), {0}, {1})",
        "jnp.clip({0}, -0.5, {1})",
        "jnp.logaddexp({0}, {1})",
        "jnp.hypot({0}, positive({1}))",
        "jnp.concatenate(jnp.broadcast_arrays(jnp.atleast_1d({0}), {1}), axis=0)",
        "jnp.stack(jnp.broadcast_arrays({0}, {1}), axis=<number> % ({0}.ndim + 1))"
        " if {0}.ndim >= {1}.ndim else {1}",
    ),
    *words("fs", "lax.clamp(-0.3 - lax.abs({0}), {1}, 0.2 + lax.square({0}))", weight=0.3),
    *words(
        "fs", "lax.mul({0}, {1})", "lax.add({0}, {1})", "lax.sub({0}, {1})", "lax.max({0}, {1})"
    ),
    *words("fsb", "lax.select({2}, {0}, {1})", "jnp.where({2}, {0}, {1}) * {0}"),
    *words(
        "f",
        *(
            f"jax.nn.{name}({{0}})"
            for name in ["relu", "softplus", "gelu", "silu", "relu6", "celu", "log_sigmoid"]
        ),
    ),
    *words("v", "jax.nn.softmax({0})", "jax.nn.standardize({0} + jnp.arange({0}.shape[-1]))"),
    *words("v", "jax.scipy.special.logsumexp({0}, axis=<axis>)", "jnp.linalg.norm({0} + 0.1)"),
]

SHAPE = [
    *words(
        "v",
        *(
            f"jnp.{name}({{0}}, axis=<axes>)"
            for name in ("sum", "sum", "mean", "prod", "max", "min")
        ),
        *(f"jnp.{name}({{0}}, axis=<axis>)" for name in ("cumsum", "cumprod", "sort", "std")),
        *(f"lax.{name}({{0}}, <axis>, reverse=<flag>)" for name in ("cummax", "cummin", "cumsum")),
        "lax.cumlogsumexp({0}, <axis>)",
        "lax.reshape({0}, <flat>)",
        "lax.transpose({0}, <permutation>)",
        "lax.rev({0}, <axes>)",
        "lax.expand_dims({0}, (0,))",
        "jnp.squeeze({0}[None], 0)",
        "lax.slice({0}, <bounds>)",
        "lax.pad({0}, jnp.zeros((), {0}.dtype), <padding>)",
        "lax.pad({0}, {0}.ravel()[0], <padding>)",
        "lax.tile({0}, <copies>)",
        "jnp.tile({0}, 2)",
        "lax.concatenate([{0}, lax.neg({0}), {0}], <axis>)",
        "jnp.split({0}, [1], axis=<axis>)[<number> % 2]",
        "jnp.unstack({0}, axis=<axis>)[0]",
        "lax.broadcast_in_dim({0}, (2, *{0}.shape), tuple(range(1, 1 + {0}.ndim)))",
        "jnp.roll({0}, 1, axis=<axis>)",
        "jnp.diff({0}, axis=<axis>)",
        "jnp.take({0}.ravel(), jnp.argsort({0}.ravel()))",
        "lax.sort(({0}, lax.sin({0})), dimension=<axis>, num_keys=1)[1]",
        "lax.sort(({0}, {0} * {0}), dimension=<axis>, num_keys=2)[<number> % 2]",
        "lax.top_k({0}, 1)[0]",
        "jnp.take_along_axis({0}, jnp.argmax({0}, axis=<axis>, keepdims=True), axis=<axis>)",
        "jnp.take({0}, jnp.array([1, 0, 1]) % {0}.shape[<axis>], axis=<axis>, mode=<mode>)",
        "{0}.at[jnp.array([7, 0, -9])].get(mode='clip')",
        "{0}.at[jnp.array([7, 0, -9])].get(mode='fill', fill_value=0.0)",
        "{0}.at[jnp.array([7, 0, -9])].add({0}[:1], mode='drop')",
        "{0}[index({0}, {0}.shape[0])]",
        "{0}[jnp.argmin({0}.ravel()) % {0}.shape[0]]",
        "lax.dynamic_slice_in_dim({0}, index({0}, 3), 1, <axis>)",
        "lax.dynamic_index_in_dim({0}, index({0}, 2), <axis>, keepdims=<flag>)",
        "lax.dynamic_update_slice_in_dim({0}, lax.slice_in_dim(lax.sin({0}), 0, 1), index({0}, 3), 0)",
        *(f"{{0}}.at[jnp.array([0, 1, 0])].{verb}(0.5 * {{0}}[0])" for verb in ("add", "subtract")),
        *(f"{{0}}.at[index({{0}}, 2)].{verb}(0.5 * {{0}}[0])" for verb in ("set", "multiply")),
        *(
            f"{{0}}.at[jnp.arange(2) % {{0}}.shape[0]].{verb}(0.7 * {{0}}[0], mode=<mode>)"
            for verb in ("max", "min")
        ),
        "{0}.at[1:].mul(0.5)",
        "jnp.where(lax.broadcasted_iota(jnp.int32, {0}.shape, <axis>) > 0, {0}, 0.0)",
        "jax.ops.segment_sum({0}, jnp.arange({0}.shape[0]) % 2, 2)",
        "lax.map(jnp.sin, {0})",
        "lax.associative_scan(jnp.multiply, {0}, axis=<axis>)",
        "lax.reduce({0}, np.asarray(-np.inf, {0}.dtype), jnp.logaddexp, (<axis>,))",
        "jnp.all({0} > -0.5) * {0} + jnp.any({0} > 2)",
        "jnp.var({0}, axis=<axis>, keepdims=True) + {0}",
    ),
    *words(
        "f",
        "{0} * jax.random.uniform(jax.random.key(<number>), {0}.shape, {0}.dtype)",
        "{0} + jax.random.normal(jax.random.split(jax.random.key(0))[<number> % 2], {0}.shape)",
        weight=0.2,
    ),
    *words("f", "lax.full_like({0}, 0.5) * {0}", "jnp.broadcast_to({0}, (2, *{0}.shape))"),
    *words("f", "lax.approx_max_k(fit({0}, 4), 2)[0]", weight=0.1),
    *words("f", "squash({0})", weight=3.0),
]

LINEAR = [
    *words("vs", "jnp.vdot({0}, {1})", "jnp.tensordot({0}, {1}, 1) if {0}.ndim == 1 else {0}"),
    *words("mf", "{0} @ fit({1}, {0}.shape[-1], 2)", "fit({1}, 2, {0}.shape[-2]) @ {0}"),
    *words(
        "ff",
        "jnp.einsum('ij,jk->ki', fit({0}, 2, 3), fit({1}, 3, 2))",
        "jnp.einsum('bij,bjk->bik', fit({0}, 2, 2, 3), fit({1}, 2, 3, 2))",
        "jnp.outer({0}, {1})[:3, :3]",
        "fit({0}, 2, 3) @ fit({1}, 3)",
        "jnp.convolve(fit({0}, 4), fit({1}, 2))",
        "lax.conv(fit({0}, 1, 2, 4), fit({1}, 3, 2, 2), (1,), 'SAME')",
        "lax.conv_general_dilated(fit({0}, 2, 2, 5), fit({1}, 2, 1, 2), (2,), [(1, 0)], "
        "rhs_dilation=(2,), feature_group_count=2)",
        "jax.nn.softmax(fit({0}, 2, 3) @ fit({1}, 3, 2)) @ fit({0}, 2, 3)",
    ),
    *words(
        "ff",
        "lax.ragged_dot(fit({0}, 3, 2), fit({1}, 2, 2, 2), jnp.array([2, 1], jnp.int32))",
        weight=0.2,
        order=1,
        batched=False,
    ),
    *words(
        "f",
        "lax.reduce_window(fit({0}, 3, 4), 0.0, lax.add, (2, 2), (1, 2), 'SAME')",
        "lax.reduce_window(fit({0}, 5), -jnp.inf, lax.max, (2,), (1,), 'VALID')",
        "lax.reduce_window(fit({0}, 2, 4), jnp.inf, lax.min, (1, 2), (1, 2), 'VALID')",
        "jax.grad(lambda x: jnp.sum(jnp.sin(lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), "
        "'VALID'))))(fit({0}, 6))",
        weight=0.4,
    ),
]

LINALG = [
    *words(
        "f",
        "jnp.linalg.cholesky(definite({0}))",
        "jnp.linalg.eigh(symmetric({0}))[0]",
        "jnp.linalg.eigh(symmetric({0}))[1] ** 2",
        "jnp.linalg.svd(separated({0}, 2, 3), full_matrices=False)[1]",
        "jnp.linalg.svd(separated({0}, 3, 2), full_matrices=False)[0] ** 2",
        "jnp.linalg.qr(separated({0}, 3, 2))[<number> % 2]",
        "jnp.linalg.inv(separated({0}, 2, 2))",
        "jnp.linalg.slogdet(separated({0}, 2, 2))[1]",
        "jnp.linalg.det(separated({0}, 2, 2))",
        "jax.scipy.linalg.expm(0.3 * separated({0}, 2, 2))",
        weight=0.12,
    ),
    *words("f", "jnp.linalg.eigvals(separated({0}, 2, 2))", weight=0.12, order=1, double=True),
    *words(
        "ff",
        "jnp.linalg.solve(separated({0}, 2, 2), fit({1}, 2, 2))",
        "jax.scipy.linalg.solve_triangular(separated({0}, 2, 2), fit({1}, 2), lower=<flag>)",
        "jax.scipy.linalg.cho_solve((definite({0}), True), fit({1}, 2))",
        "lax.linalg.triangular_solve(definite({0}), fit({1}, 2, 2), left_side=<flag>)",
        "lax.linalg.triangular_solve(definite({0}), fit({1}, 2, 2), transpose_a=<flag>)",
        "lax.linalg.tridiagonal_solve(squash(fit({0}, 3)).at[0].set(0), 3.0 + squash(fit({1}, 3)), "
        "squash(fit({0}, 3)).at[2].set(0), fit({1}, 3, 2))",
        "jax.scipy.sparse.linalg.cg(lambda x: definite({0}) @ x, fit({1}, 2), tol=1e-14)[0]",
        weight=0.12,
    ),
]

COMPLEX = [
    *words("fs", "lax.complex({0}, {1})", double=True),
    *words(
        "f",
        "jnp.exp(1j * {0})",
        "jnp.fft.fft(fit({0}, 3))",
        "jnp.fft.rfft(fit({0}, 4))",
        double=True,
    ),
    *words(
        "z",
        "jnp.real({0})",
        "jnp.imag({0})",
        "jnp.abs({0} + 0.3)",
        "jnp.conj({0})",
        "{0} * {0}",
        "0.5j * {0}",
        "jnp.fft.ifft(fit({0}, 4))",
        "jnp.fft.irfft(fit({0}, 3), 4)",
        "jnp.sum({0})",
        "{0} / (2.0 + jnp.abs({0}))",
        "jnp.exp(1j * jnp.real({0})) * jnp.imag({0})",
        double=True,
    ),
    *words("zs", "{0} + {1}", "{0} * jnp.conj({1})", "jnp.vdot({0}, {1})", double=True),
]

INTEGER = [
    *words("v", "jnp.argmax({0}, axis=<axis>)", "jnp.argmin({0}, axis=<axis>)"),
    *words("f", "({0} * 2).astype(jnp.int32)", "{0} > 0.1"),
    *words(
        "fi", "{0} * jnp.sum({1})", "jnp.where(jnp.sum({1}) % 2 == 0, {0}, jnp.cos({0}))", weight=2
    ),
    *words(
        "i", "lax.bitcast_convert_type(lax.population_count({0}) << 2, {0}.dtype) ^ 1", weight=0.3
    ),
    *words(
        "i", "lax.clz({0}) - (lax.shift_right_arithmetic({0}, jnp.ones_like({0})) | 3)", weight=0.3
    ),
    *words(
        "i",
        "lax.mulhi({0}, {0})",
        "lax.reduce_xor({0}, tuple(range({0}.ndim)))",
        weight=0.2,
    ),
]

CALLS = [
    *words("f", "lax.reduce_and({0} > 0, tuple(range({0}.ndim))) * {0}", weight=0.3),
    *words(
        "f",
        "read_back({0})",
        "through_reference({0})",
        weight=0.3,
        order=1,
        bare=True,
    ),
    *words("fp", "solve_linear({0}, {1})", weight=0.3),
    *words("f", "linear({0})", weight=0.3, batched=False, order=1),
    *words("ff", "stored(fit({0}, 2, 3), fit({1}, 3))", weight=0.3, double=True),
    *words("ff", "halved({0}, {1})", weight=0.3, order=1),
    *words("f", "high({0})", weight=0.3, bare=True),
    *words(
        "f",
        "while_loop(lambda c: c > 0.5, lambda c: jnp.sqrt(c - 0.5), positive(jnp.sum({0})))",
        weight=0.2,
        order=1,
    ),
]
CHEAP = [w for w in ELEMENTWISE if w.weight == 1.0] + words("f", "squash({0})", weight=5.0)
ALL = [*ELEMENTWISE, *SHAPE, *LINEAR, *LINALG, *COMPLEX, *INTEGER, *CALLS]
