"""A function to be checked, as a function of its differentiable leaves, in one precision."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcgrad import _jax, transforms
from funcgrad.registry import Rules
from funcgrad.testing import compare
from funcgrad.testing.compare import Difference

Arrays = tuple[Any, ...]


@dataclass(frozen=True)
class Fixed:
    """A leaf of the arguments that is passed on as it is, such as a string or an `int`."""

    value: Any


def on_leaves(
    fun: Callable[..., Any], in_tree: Any, leaves: Sequence[Any], where: Sequence[int]
) -> Callable[..., Any]:
    """`fun` as a function of the leaves of its arguments at these places, the others as they are."""

    def run(*xs: Any) -> Any:
        filled = [x.value if isinstance(x, Fixed) else x for x in leaves]
        for i, x in zip(where, xs, strict=True):
            filled[i] = x
        return fun(*jax.tree.unflatten(in_tree, filled))

    return run


def operands_in(leaves: Sequence[Any]) -> list[int]:
    """Where the leaves are that are not passed on as they are."""
    return [i for i, x in enumerate(leaves) if not isinstance(x, Fixed)]


def is_inexact(x: Any) -> bool:
    return not isinstance(x, Fixed) and bool(jnp.issubdtype(jnp.result_type(x), np.inexact))


def is_x64() -> bool:
    """Whether JAX runs with 64 bits."""
    return jnp.result_type(float) == np.float64


def eps_of(dtype: Any) -> float:
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, np.inexact) else 0.0


def random_like(x: Any, seed: Sequence[int]) -> Any:
    """Standard normal numbers, complex ones for a complex array."""
    rng = np.random.default_rng(seed)
    shape, dtype = jnp.shape(x), jnp.result_type(x)
    values = rng.standard_normal(shape)
    if jnp.issubdtype(dtype, np.complexfloating):
        values = values + 1j * rng.standard_normal(shape)
    return jnp.asarray(values, dtype)


@dataclass(frozen=True, eq=False)
class Problem:
    """What is checked.

    Attributes:
      name: the function's, for messages.
      fun: from the differentiable leaves of the arguments to the inexact leaves of the output.
      plain: the same without derivatives of its own, which JAX can be asked about; or `fun`.
      xs: the leaves.
      cts: random cotangents of the outputs.
      labels: what the leaves are called.
      rules: the backward rules.
      rtol: the relative error that is allowed.
      eps: the coarsest relative rounding error of a value in the function.
      precision: in what it runs, as shown to the user.
      wide: whether it runs with 64 bits.
      seed: of everything random.
      cotangent: cotangents of the inexact outputs -> a pytree like the output.
    """

    name: str
    fun: Callable[..., Arrays]
    plain: Callable[..., Arrays]
    xs: Arrays
    cts: Arrays
    labels: tuple[str, ...]
    rules: Rules
    rtol: float
    eps: float
    precision: str
    wide: bool
    seed: int
    cotangent: Callable[[Arrays], Any]

    def setting(self) -> contextlib.AbstractContextManager[Any]:
        """The setting of JAX in which all about it runs."""
        return jax.enable_x64(self.wide)

    def pull(self, xs: Arrays, cts: Arrays) -> Arrays:
        """The cotangents of the leaves by funcgrad."""
        return transforms.vjp(self.fun, *xs, rules=self.rules)[1](cts)

    def jax_pull(self, xs: Arrays, cts: Arrays) -> Arrays:
        """The same by JAX."""
        return jax.vjp(self.plain, *xs)[1](cts)

    @functools.cached_property
    def has_open_loop(self) -> bool:
        """Whether there is a loop of run-time length in the function."""
        with self.setting():
            closed = jax.make_jaxpr(self.fun)(*self.xs)
        return any(eqn.primitive is lax.while_p for eqn in equations(closed.jaxpr))

    @functools.cached_property
    def gradient(self) -> Arrays:
        """The cotangents that are checked."""
        return self.pull(self.xs, self.cts)

    @functools.cached_property
    def size(self) -> float:
        """The sum of |ct f| by output element; more where f is what is left of larger values.

        How large these were is seen from how much f changes when its arguments change by a rounding
        error; a jump, which is more than that explains, does not count.
        """
        cts = [compare.as_double(ct) for ct in self.cts]
        run = compiled(self.fun, *self.xs)
        values = [compare.as_double(y) for y in run(*self.xs)]
        noise = 0.0
        for salt in range(3):
            moved = [compare.as_double(y) for y in run(*self._moved(salt))]
            noise = max(
                noise,
                sum(
                    float(np.sum(np.abs(ct * (a - b))))
                    for ct, a, b in zip(cts, values, moved, strict=True)
                ),
            )
        total = sum(float(np.sum(np.abs(ct))) for ct in cts)
        own = sum(float(np.sum(np.abs(ct * y))) for ct, y in zip(cts, values, strict=True))
        if own <= 64 * self.eps * total and all(_is_residue(y, self.eps) for y in values):
            own = total
        return max(own, noise / self.eps) if noise <= self.eps**0.5 * total else own

    def _moved(self, salt: int) -> Arrays:
        """The leaves, each element off by a few rounding errors."""
        return tuple(
            x * (1 + 2 * self.eps * random_like(x, (self.seed, 6, salt, i))).astype(x.dtype)
            for i, x in enumerate(self.xs)
        )

    @functools.cached_property
    def noise(self) -> list[float]:
        """What rounding within the function may leave in each leaf's cotangent; nothing that could be
        told where something is not finite."""
        noise = [64 * self.eps * self.size / size_of(x) for x in self.xs]
        return [n if np.isfinite(n) else 0.0 for n in noise]

    def difference(self, found: Sequence[Any], expected: Sequence[Any], noisy: bool) -> Difference:
        """Where two answers differ most, by what is allowed; with noise, if they are cotangents."""
        noise = self.noise if noisy else None
        return compare.worst(found, expected, self.rtol, self.eps, noise)

    def directions(self, *salt: int) -> list[np.ndarray]:
        """A random direction for each leaf, as large as the leaf."""
        return [
            np.asarray(random_like(x, (self.seed, 7, i, *salt))) * size_of(x)
            for i, x in enumerate(self.xs)
        ]


def _is_residue(y: np.ndarray, eps: float) -> bool:
    """Whether values are what numbers of about 1 leave when they cancel: multiples of their last bit."""
    steps = np.stack([np.real(y), np.imag(y)]) / (eps / 16)
    return bool(np.all(steps == np.round(steps)))


def size_of(x: Any) -> float:
    """The root mean square of an array, 1 for zeros."""
    values = compare.as_double(x)
    size = float(np.sqrt(np.mean(np.abs(values) ** 2))) if values.size else 0.0
    return size if size > 0 else 1.0


def build(
    fun: Callable[..., Any],
    plain: Callable[..., Any],
    leaves: Sequence[Any],
    in_tree: Any,
    labels: Sequence[str],
    rules: Rules,
    rtol: float | None,
    seed: int,
    name: str,
    wide: bool,
) -> Problem:
    """Make the problem of `fun` at these leaves, in the setting that is current."""
    where = [i for i, x in enumerate(leaves) if is_inexact(x)]
    xs = tuple(jnp.asarray(leaves[i]) for i in where)

    def flat(fun: Callable[..., Any]) -> Callable[..., Arrays]:
        run = on_leaves(fun, in_tree, leaves, where)
        return lambda *xs: tuple(y for y in jax.tree.leaves(run(*xs)) if is_inexact(y))

    out, out_tree = jax.tree.flatten(on_leaves(fun, in_tree, leaves, where)(*xs))
    inexact = [y for y in out if is_inexact(y)]
    cts = tuple(random_like(y, (seed, 1, i)) for i, y in enumerate(inexact))

    def cotangent(cts: Arrays) -> Any:
        given = iter(cts)
        filled = [
            next(given) if is_inexact(y) else np.zeros(jnp.shape(y), jax.dtypes.float0) for y in out
        ]
        return jax.tree.unflatten(out_tree, filled)

    dtypes = [jnp.result_type(x) for x in (*xs, *inexact)]
    inner, bits = precisions_in(flat(fun), xs)
    coarsest = max([*dtypes, *inner], key=eps_of)
    precision, eps = str(np.dtype(coarsest)), eps_of(coarsest)
    if 2.0**-bits > eps:
        precision, eps = f"{bits} bits", 2.0**-bits
    return Problem(
        name,
        flat(fun),
        flat(plain),
        xs,
        cts,
        tuple(labels[i] for i in where),
        rules,
        compare.default_rtol(eps) if rtol is None else rtol,
        eps,
        precision,
        wide,
        seed,
        cotangent,
    )


def widened(leaves: Sequence[Any]) -> list[Any]:
    """Leaves in double precision."""

    def wide(x: Any) -> Any:
        if not is_inexact(x):
            return x
        is_complex = jnp.issubdtype(jnp.result_type(x), np.complexfloating)
        return jnp.asarray(np.asarray(x), np.complex128 if is_complex else np.float64)

    return [wide(x) for x in leaves]


def precisions_in(fun: Callable[..., Any], xs: Arrays) -> tuple[list[Any], int]:
    """The inexact dtypes within a function, and the fewest bits that it rounds a mantissa to; nothing
    where JAX cannot trace it."""
    jaxpr = traced(fun, *xs)
    found: set[Any] = set()
    bits = 64
    for eqn in equations(jaxpr) if jaxpr is not None else ():
        bits = min(bits, eqn.params.get("mantissa_bits", bits))
        for v in eqn.outvars:
            dtype = getattr(v.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, np.inexact):
                found.add(np.dtype(dtype))
    return sorted(found, key=str), bits


def traced(fun: Callable[..., Any], *args: Any) -> Any:
    """A function's jaxpr, None where JAX cannot trace it."""
    try:
        return jax.make_jaxpr(fun)(*args).jaxpr
    except Exception:
        return None


def equations(jaxpr: Any) -> list[Any]:
    """Every equation, those of inner jaxprs included."""
    found = []
    for eqn in jaxpr.eqns:
        found.append(eqn)
        for inner in _jax.inner_jaxprs(eqn.params):
            found += equations(inner)
    return found


def compiled(fun: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """`fun`, jitted where JAX can do that with these arguments."""
    jitted = jax.jit(fun)
    try:
        jitted.trace(*args)
    except Exception:
        return fun
    return jitted


def answers(functions: Sequence[Callable[..., Any]], *args: Any) -> list[Any]:
    """What each function gives, or the exception that it raises.

    They are compiled as one program where JAX can trace them all, since compiling is what costs.
    """
    together = jax.jit(lambda *args: [function(*args) for function in functions])
    try:
        together.trace(*args)
    except Exception:
        return [_answer(function, *args) for function in functions]
    return together(*args)


def _answer(function: Callable[..., Any], *args: Any) -> Any:
    try:
        return compiled(function, *args)(*args)
    except Exception as error:
        return error


def scalar_of_gradient(problem: Problem, pull: Callable[..., Arrays], salt: int) -> Problem:
    """A weighted sum of the cotangents as a function of leaves and cotangents: its gradient is of one
    order more."""
    count = len(problem.xs)

    def weigh(pull: Callable[..., Arrays]) -> Callable[..., Arrays]:
        def scalar(*xs_and_cts: Any) -> Arrays:
            found = pull(xs_and_cts[:count], xs_and_cts[count:])
            terms = [
                jnp.sum(jnp.real(ct * random_like(ct, (problem.seed, 3, salt, i))))
                for i, ct in enumerate(found)
            ]
            return (sum(terms[1:], terms[0]),)

        return scalar

    xs = (*problem.xs, *problem.cts)
    fun = weigh(pull)
    outputs = tuple(f"the cotangent of output {i}" for i in range(len(problem.cts)))
    return replace(
        problem,
        fun=fun,
        plain=weigh(problem.jax_pull),
        xs=xs,
        cts=tuple(jnp.ones_like(y) for y in fun(*xs)),
        labels=(*problem.labels, *outputs),
        rtol=10 * problem.rtol,
    )
