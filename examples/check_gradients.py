"""Find wrong gradients before they spoil a training run: python examples/check_gradients.py

A rule with a slip in it, a NaN that jax.grad has as well, a second order that is cut off, and a gradient
that is wrong on purpose. A failure names the element, both values, and a cotangent that shows it; then
the same is checked mended.
"""

import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import funcgrad
from funcgrad.testing import GradientError, check_grads


def op_of(forward: Callable, rule: Callable) -> Callable:
    op = funcgrad.op(forward)
    op.defvjp(rule)
    return op


def unit(x: Array) -> Array:
    """x / |x|"""
    return x / jnp.sqrt(jnp.sum(x**2))


def slipped_vjp(ct: Array, x: Array, *, out: Array) -> Array:
    return (ct - jnp.sum(ct * x) * out) / jnp.sqrt(jnp.sum(x**2))  # the first x should be out


def unit_vjp(ct: Array, x: Array, *, out: Array) -> Array:
    """y = x / |x|; ct_x = (ct - <ct, y> y) / |x|"""
    return (ct - jnp.sum(ct * out) * out) / jnp.sqrt(jnp.sum(x**2))


def detached_vjp(ct: Array, x: Array, *, out: Array) -> Array:
    return unit_vjp(ct, jax.lax.stop_gradient(x), out=out)


def rooted(x: Array) -> Array:
    """The square root is hidden where x is negative; that it has no derivative there is not."""
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)


def safely_rooted(x: Array) -> Array:
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def straight_through_vjp(ct: Array, x: Array, *, out: Array) -> Array:
    return ct


X = np.array([0.5, -1.0, 2.0])
quantized = op_of(jnp.round, straight_through_vjp)
CHECKS = {  # what is wrong, what is right, and its options
    "a slip in a rule": (op_of(unit, slipped_vjp), op_of(unit, unit_vjp), {}),
    "a NaN behind a where": (rooted, safely_rooted, {}),
    "a second order cut off": (op_of(unit, detached_vjp), op_of(unit, unit_vjp), {}),
    "wrong on purpose": (quantized, quantized, {"derivative": False}),
}


def main() -> None:
    """Print what is wrong with each, and the report of what is right."""
    for name, (wrong, right, options) in CHECKS.items():
        try:
            check_grads(wrong, (X,))
            sys.exit(f"{name} was not found")
        except GradientError as error:
            print(f"\n{name}: {str(error).splitlines()[1]}")
        print(check_grads(right, (X,), **options))


if __name__ == "__main__":
    main()
