"""Loops of JAX's that search for a minimum: their steps have derivatives, the minimum has another.

``jax.scipy.optimize.minimize`` ends once a gradient is small. The derivative of its steps comes near
that of the minimum with the number of steps. Where the search begins at the minimum there is no step,
and the derivative of the steps is 0. What follows from the minimum being a root of the gradient needs
the function, which the loop's program does not have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from funcgrad import _jax, errors
from funcgrad.rule_program import WithoutTapes

NAME = "jax.scipy.optimize.minimize"
PROBLEM = (
    "takes steps until a gradient is small. The derivative of the steps is not that of the minimum: it "
    "is 0 where the search begins at the minimum. Have jax.lax.custom_root find the root of the "
    "gradient by it: jax.lax.custom_root(jax.grad(fun), x0, lambda _, x: minimize(fun, x, "
    "method='BFGS').x, lambda linear, y: jax.numpy.linalg.solve(jax.jacobian(linear)(y), y)). For the "
    "value at the minimum, call fun with jax.lax.stop_gradient of the x that was found."
)


@dataclass(frozen=True, eq=False)
class SearchProgram(WithoutTapes):
    """Runs the search; a cotangent of what it found is an error."""

    primitive: Any
    params: dict[str, Any]
    late: bool = False

    @property
    def present(self) -> list[bool]:
        """Which outputs would carry a gradient."""
        return [_jax.is_inexact(aval) for aval in self.params["body_jaxpr"].out_avals]

    def forward(self, primals: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """What it found. Nothing is kept."""
        return list(self.primitive.bind(*primals, **self.params)), []

    def __call__(self, residuals: Sequence[Any], cts: Sequence[Any], eager: bool) -> Sequence[Any]:
        raise errors.no_derivative(NAME, PROBLEM)
