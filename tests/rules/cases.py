"""One row of a rule's table, and everything a row is checked for.

Expected values never come from our own output: they come from ``jax.vjp`` and from central
differences in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive

import funcgrad
from funcgrad.registry import op_key


@dataclass(frozen=True)
class Case:
    """One row: `fn(*args)` runs `op` on float64 (or complex128) operands.

    Attributes:
      op: what the row tests the rule of; a primitive must occur in `fn`'s jaxpr.
      fn: a function of arrays only (params are closed over).
      args: numpy arrays; those of integer or boolean dtype are not differentiated.
      name: what distinguishes the row from others of the op.
      order: 2 checks second order as well; 1 where JAX itself has no second derivative.
      smooth: False at kinks, where finite differences mean nothing.
      vmap: False where JAX cannot batch the op.
    """

    op: Any
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    name: str = ""
    order: int = 2
    smooth: bool = True
    vmap: bool = True
    rtol: float = 1e-11

    @property
    def id(self) -> str:
        shapes = "-".join("x".join(map(str, np.shape(a))) or "scalar" for a in self.args)
        return f"{getattr(self.op, '__name__', self.op)}-{self.name or shapes}"


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float64."""
    return np.random.default_rng(seed).standard_normal(shape)


def uniform(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray:
    """Uniform float64 in [low, high)."""
    return np.random.default_rng(seed).uniform(low, high, shape)


def complex_normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Complex128 with standard normal parts."""
    return normal(*shape, seed=seed) + 1j * normal(*shape, seed=seed + 1)


def distinct(*shape: int, seed: int = 0) -> np.ndarray:
    """Float64 values all different and at least 0.1 apart, in random order (for max, sort)."""
    size = int(np.prod(shape))
    values = np.random.default_rng(seed).permutation(size) * 0.1 - 0.05 * size
    return values.reshape(shape)


def is_differentiable(x: Any) -> bool:
    return bool(np.issubdtype(jnp.result_type(x), np.inexact))


def random_like(x: Any, seed: int) -> Any:
    """A random non-uniform cotangent or direction for `x`."""
    shape, dtype = jnp.shape(x), jnp.result_type(x)
    if not np.issubdtype(dtype, np.inexact):
        return np.zeros(shape, jax.dtypes.float0)
    if np.issubdtype(dtype, np.complexfloating):
        return jnp.asarray(complex_normal(*shape, seed=seed), dtype)
    return jnp.asarray(normal(*shape, seed=seed), dtype)


def float_only(case: Case) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """`case.fn` as a function of its differentiable arguments, giving its differentiable outputs."""
    where = [i for i, a in enumerate(case.args) if is_differentiable(a)]

    def fn(*xs: Any) -> tuple[Any, ...]:
        args: list[Any] = [jnp.asarray(a) for a in case.args]
        for i, x in zip(where, xs, strict=True):
            args[i] = x
        return tuple(y for y in jax.tree.leaves(case.fn(*args)) if is_differentiable(y))

    return fn, tuple(jnp.asarray(case.args[i]) for i in where)


def assert_close(ours: Any, expected: Any, rtol: float, what: str) -> None:
    ours_leaves, expected_leaves = jax.tree.leaves(ours), jax.tree.leaves(expected)
    assert len(ours_leaves) == len(expected_leaves), what
    for a, b in zip(ours_leaves, expected_leaves, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
        assert a.dtype == b.dtype, f"{what}: dtype {a.dtype}, expected {b.dtype}"
        scale = np.max(np.abs(b[np.isfinite(b)]), initial=1.0)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=what)


def check(case: Case) -> None:
    """Everything that must hold of one row; what is jitted is compiled as one program."""
    with jax.enable_x64(True):
        fn, xs = float_only(case)
        if isinstance(op_key(case.op), Primitive):
            assert case.op in primitives_in(fn, *xs), f"{case.op} does not occur in {case.id}"
        cts = tuple(random_like(y, seed=101 + i) for i, y in enumerate(fn(*xs)))

        def ours(*xs: Any) -> Any:
            return funcgrad.vjp(fn, *xs)[1](cts)

        def reference(*xs: Any) -> Any:
            return jax.vjp(fn, *xs)[1](cts)

        batch = tuple(jnp.stack([x, x + 0.01 * random_like(x, seed=7)]) for x in xs)
        pairs = jax.jit(lambda xs, batch: compared(case, ours, reference, xs, batch))(xs, batch)
        if not case.smooth:  # at special points jit may change what JAX itself answers
            pairs["under jit"] = (pairs["under jit"][0], reference(*xs))
        expected = pairs["under jit"][1]
        assert_close(ours(*xs), expected, case.rtol, "against jax.vjp")
        for what, (found, reference_value) in pairs.items():
            rtol = 100 * case.rtol if "order" in what else case.rtol
            assert_close(found, reference_value, rtol, what)
        if case.smooth:
            check_finite_difference(fn, xs, cts, expected)


def compared(case: Case, ours: Any, reference: Any, xs: Any, batch: Any) -> dict[str, Any]:
    """Pairs of our value and JAX's, by what was done."""
    pairs = {"under jit": (ours(*xs), reference(*xs))}
    if case.vmap:
        pairs["under vmap"] = (jax.vmap(ours)(*batch), jax.vmap(reference)(*batch))
    if case.order == 2:
        argnums = tuple(range(len(xs)))
        expected = jax.grad(probe(reference), argnums)(*xs)
        pairs["second order"] = (funcgrad.grad(probe(ours), argnums)(*xs), expected)
        pairs["second order by jax.grad over ours"] = (
            jax.grad(probe(ours), argnums)(*xs),
            expected,
        )
    return pairs


def probe(backward: Any) -> Any:
    """A scalar of every cotangent, whose gradient is a second derivative."""

    def scalar(*xs: Any) -> Any:
        return sum(
            jnp.sum(jnp.real(ct * random_like(ct, seed=53 + i)))
            for i, ct in enumerate(backward(*xs))
        )

    return scalar


def check_finite_difference(fn: Any, xs: Any, cts: Any, expected: Any) -> None:
    """<ct, (f(x + h v) - f(x - h v)) / 2h> against <vjp(ct), v>, for real functions of reals."""
    leaves = (*xs, *cts)
    if not xs or any(np.issubdtype(jnp.result_type(a), np.complexfloating) for a in leaves):
        return
    step = 1e-6
    vs = [random_like(x, seed=31 + i) for i, x in enumerate(xs)]
    plus = fn(*(x + step * v for x, v in zip(xs, vs, strict=True)))
    minus = fn(*(x - step * v for x, v in zip(xs, vs, strict=True)))
    numeric = sum(
        np.vdot(ct, (np.asarray(p) - np.asarray(m)) / (2 * step))
        for ct, p, m in zip(cts, plus, minus, strict=True)
    )
    terms = [np.asarray(ct * v) for ct, v in zip(expected, vs, strict=True)]
    analytic = sum(t.sum() for t in terms)
    scale = 1.0 + sum(np.abs(t).sum() for t in terms)
    assert abs(numeric - analytic) <= 1e-6 * scale, f"finite difference {numeric}, rule {analytic}"


def primitives_in(fn: Any, *args: Any) -> set[Any]:
    """Every primitive in `fn`'s jaxpr, inner jaxprs included."""
    found: set[Any] = set()

    def visit(jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            found.add(eqn.primitive)
            for value in jax.tree.leaves(
                list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
            ):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(fn)(*args).jaxpr)
    return found
