"""DeepLIFT with the rescale rule: differences to a baseline, handed back layer by layer.

The function runs on two lanes, on x and on the baseline. A nonlinearity y = f(x) has the multiplier
``(y - y') / (x - x')`` in the place of its derivative, with the other lane's x' and y'. A linear
operation has its own derivative. A product of two values that both depend on the input has that at the
mean of the lanes, which is exact. So ``(x - x') * ct_x`` sums to ``fun(x) - fun(baseline)``.

A. Shrikumar, P. Greenside, A. Kundaje: Learning important features through propagating activation
differences. ICML 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcgrad import _jax, errors
from funcgrad._jax import Var
from funcgrad.places import at
from funcgrad.places.program import Block, Place, is_entered
from funcgrad.places.selectors import OfPlaces, Site
from funcgrad.surgery.methods.layers import PRODUCTS, Outermost, dependent, dependent_operands
from funcgrad.surgery.methods.surrogate import surrogate
from funcgrad.transforms import grad

LANES = "x and the baseline"
NEAR = 1e-6
"""Where x and x' are as close as this, the multiplier is the derivative."""

FUNCTIONS = Outermost(
    at(function=jax.nn.relu)
    | at(function=jax.nn.gelu)
    | at(function=jax.nn.silu)
    | at(function=jax.nn.softplus)
    | at(function=jax.nn.elu)
    | at(function=jax.nn.leaky_relu)
    | at(function=jax.nn.sigmoid)
)
"""Functions of one value, element by element, whose calls are one nonlinearity."""

NONLINEAR = {
    "abs", "cos", "cosh", "erf", "exp", "exp2", "expm1", "integer_pow", "log", "log1p",
    "logistic", "max", "min", "pow", "rsqrt", "sin", "sinh", "sqrt", "square", "tan", "tanh",
}  # fmt: skip
"""Operations of one value that depends on the input, element by element."""

LINEAR = {
    "add", "add_any", "broadcast_in_dim", "concatenate", "convert_element_type", "copy",
    "copy_p", "cumsum", "dynamic_slice", "gather", "name", "neg", "pad", "real",
    "reduce_sum", "reduce_window_sum", "reshape", "rev", "select_n", "slice", "squeeze",
    "split", "stop_gradient", "sub", "transpose",
}  # fmt: skip
"""Operations that are linear in the values that depend on the input, if those are floating-point."""


def deep_lift(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes DeepLIFT attributions of a scalar-valued `fun`.

    Args:
      fun: maps an array, or a pytree of arrays, to a scalar.

    Returns:
      A function ``(x, baseline)`` that returns a pytree like `x`. Its elements sum to
      ``fun(x) - fun(baseline)``.

    Raises:
      errors.EditError: an operation is neither linear nor a nonlinearity of one value, such as a
        maximum of several; the rescale rule says nothing of it.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from funcgrad.surgery.methods.rescale import deep_lift
      >>> model = lambda x: jax.nn.relu(x[0] + x[1] - 1)
      >>> print(deep_lift(model)(jnp.array([2.0, 1.0]), jnp.zeros(2)))
      [1.3333334 0.6666667]
    """
    edit = [
        FUNCTIONS.replaced(_rescaled, optional=True),
        Kind("nonlinear").replaced(_rescaled, optional=True),
        Kind("bilinear").replaced(_at_mean, optional=True),
        Kind("unknown").replaced(_refused, optional=True),
    ]
    gradient = grad(fun, edit=edit)

    def attributions(x: Any, baseline: Any) -> Any:
        lanes = jax.tree.map(lambda *both: jnp.stack(both), x, baseline)
        cts = jax.vmap(gradient, axis_name=LANES)(lanes)
        return jax.tree.map(lambda both, ct: (both[0] - both[1]) * ct[0], lanes, cts)

    return attributions


def _difference(x: Any) -> Any:
    """``x - x'``, the same on both lanes."""
    both = lax.all_gather(x, LANES)
    return both[0] - both[1]


def _rescaled(original: Callable[..., Any], x: Any, *constants: Any) -> Any:
    """A nonlinearity whose derivative is ``(y - y') / (x - x')``."""
    y = original(x, *constants)
    dx, dy = lax.stop_gradient(_difference(x)), lax.stop_gradient(_difference(y))
    near = jnp.abs(dx) < NEAR
    line = x * (dy / jnp.where(near, 1, dx))
    return surrogate(lax.stop_gradient(y), jnp.where(near, y, line))


def _at_mean(original: Callable[..., Any], *operands: Any) -> Any:
    """A product whose derivative is that at the mean of the lanes: ``mean(y) dx + mean(x) dy``."""
    means = (x + lax.stop_gradient(lax.pmean(x, LANES) - x) for x in operands)
    return surrogate(lax.stop_gradient(original(*operands)), original(*means))


def _refused(original: Callable[..., Any], *operands: Any) -> Any:
    raise errors.EditError(
        "DeepLIFT was asked for. The rescale rule is for nonlinear operations of one value, element by "
        f"element, which this is not: {original.__name__}. Explain a function without the operation, "
        "such as a logit before the softmax."
    )


class Kind(OfPlaces):
    """Operations outside of FUNCTIONS on values that depend on the input, of a kind of `kind_of`."""

    def __init__(self, kind: str):
        self.kind = kind

    def places(self, program: Block) -> list[Place]:
        found, inside = dependent(program), set(FUNCTIONS.places(program))
        free = (p for p in program.walk() if p.sealed is None and p not in inside)
        return [p for p in free if kind_of(p, dependent_operands(p, found)) == self.kind]

    def sites(self, program: Block) -> list[Site]:
        """Single operations; what depends on the input enters first."""
        found = dependent(program)

        def ordered(site: Site) -> tuple[Var, ...]:
            first = dependent_operands(site.places[0], found)
            return tuple(dict.fromkeys((*first, *site.entering)))

        return [replace(site, ordered=ordered(site)) for site in super().sites(program)]

    def __str__(self) -> str:
        return f"{self.kind} operations"


def kind_of(place: Place, operands: list[Any]) -> str:
    """What an operation is for the operands that depend on the input."""
    name = place.op.name
    if not operands or is_entered(place.equation) or not any(map(_jax.is_inexact, place.outputs)):
        return "no matter"
    if place.op in PRODUCTS or name == "mul":
        return "linear" if len(operands) == 1 else "bilinear"
    if name == "div":
        return "linear" if operands == [place.equation.invars[0]] else "unknown"
    if name in LINEAR:
        return "linear" if all(_jax.is_inexact(v.aval) for v in operands) else "unknown"
    return "nonlinear" if name in NONLINEAR and len(operands) == 1 else "unknown"
