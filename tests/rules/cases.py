"""One row of a rule's table, and the check of a row, which is the public :func:`check_rule`.

Expected values never come from our own output: they come from ``jax.vjp`` and from central
differences in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcgrad.testing import MODES, Report, check_rule
from funcgrad.testing.problem import equations
from funcgrad.testing.run import SECOND

LEFT_OUT = ("dot", "linear", "second")
"""The checks that a row is not given: jax.vjp, which it is compared with, is linear and transposes
the jax.jvp that `dot` asks. The second order is given by its parts."""

EXACT = ("value", "jax", "jit", "vmap", "second by jax", "second by jax over ours")
"""What is equal bit by bit in a row whose function rounds to fewer digits than double precision has, for
which the checker would allow."""


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
      rtol: the relative error that is allowed against JAX.
      without: other checks that cannot be asked of the row; where it stands it is said why.
    """

    op: Any
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    name: str = ""
    order: int = 2
    smooth: bool = True
    vmap: bool = True
    rtol: float = 1e-11
    without: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        shapes = "-".join("x".join(map(str, np.shape(a))) or "scalar" for a in self.args)
        return f"{getattr(self.op, '__name__', self.op)}-{self.name or shapes}"

    def modes(self) -> tuple[str, ...]:
        """The checks that a row is given."""
        left_out = {
            *LEFT_OUT,
            *self.without,
            *(() if self.smooth else ("numerical", "second numerical")),
            *(() if self.vmap else ("vmap",)),
            *(() if self.order > 1 else SECOND),
        }
        return tuple(mode for mode in (*MODES, *SECOND) if mode not in left_out)


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


def random_like(x: Any, seed: int) -> Any:
    """A random non-uniform cotangent or direction for `x`."""
    shape, dtype = jnp.shape(x), jnp.result_type(x)
    if not np.issubdtype(dtype, np.inexact):
        return np.zeros(shape, jax.dtypes.float0)
    if np.issubdtype(dtype, np.complexfloating):
        return jnp.asarray(complex_normal(*shape, seed=seed), dtype)
    return jnp.asarray(normal(*shape, seed=seed), dtype)


def assert_close(ours: Any, expected: Any, rtol: float, what: str) -> None:
    ours_leaves, expected_leaves = jax.tree.leaves(ours), jax.tree.leaves(expected)
    assert len(ours_leaves) == len(expected_leaves), what
    for a, b in zip(ours_leaves, expected_leaves, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
        assert a.dtype == b.dtype, f"{what}: dtype {a.dtype}, expected {b.dtype}"
        scale = np.max(np.abs(b[np.isfinite(b)]), initial=1.0)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=what)


def check(case: Case, only: Sequence[str] | None = None) -> Report:
    """Everything that must hold of one row; a check that should run and does not is a failure.

    Args:
      case: the row.
      only: the checks that are asked for, of those that the row is given; all of them by default.
    """
    modes = tuple(mode for mode in case.modes() if only is None or mode in only)
    options = {"order": case.order, "modes": modes, "rtol": case.rtol, "finite": False}
    report = check_rule(case.op, *case.args, through=case.fn, options=options)
    required = {*modes} - {"second numerical"}  # the second order is compared with JAX's, twice
    missing = [
        check
        for check in report.of_status("not run")
        if not required.isdisjoint((check.mode, check.name))
        and check.detail not in ("one operand", "one output", "every operand is empty")
    ]
    assert not missing, f"{case.id} is not checked as it should be:\n{report}"
    rounded = [check for check in report if check.name in EXACT and check.error]
    assert all(check.detail in ("float64", "complex128") for check in rounded), report
    return report


def primitives_in(fn: Callable[..., Any], *args: Any) -> set[Any]:
    """Every primitive in `fn`'s jaxpr, inner jaxprs included."""
    return {eqn.primitive for eqn in equations(jax.make_jaxpr(fn)(*args).jaxpr)}
