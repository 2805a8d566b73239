"""Differentiate loops that end when they are done: Newton's method and an adaptive ODE solver.

    python examples/while_loops.py

Both are lax.while_loop, whose number of steps is known at run time only: jax.grad refuses them in
reverse mode, funcgrad.grad keeps a fixed number of states and runs between them again. The
gradients are compared with formulas.
"""

import sys

import jax
import jax.numpy as jnp
from jax import Array, lax

import funcgrad

jax.config.update("jax_enable_x64", True)
BOUND = 1e-6  # of the gradients' relative differences to the formulas


def cube_root(a: Array) -> Array:
    """Newton's method, until x cubed is a to twelve digits."""

    def goes_on(x: Array) -> Array:
        return jnp.abs(x**3 - a) > 1e-12 * a

    return lax.while_loop(goes_on, lambda x: x - (x**3 - a) / (3 * x**2), a)


def decayed(rate: Array) -> Array:
    """x(1) of x' = -rate x^2, x(0) = 1: Heun steps as long as Euler's are close to them."""

    def slope(x: Array) -> Array:
        return -rate * x**2

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        time, h, x = state
        h = jnp.minimum(h, 1 - time)
        euler = x + h * slope(x)
        heun = x + h / 2 * (slope(x) + slope(euler))
        error = jnp.abs(heun - euler) / 1e-7
        accepted = error <= 1
        time, x = jnp.where(accepted, time + h, time), jnp.where(accepted, heun, x)
        return time, h * jnp.clip(0.9 * lax.rsqrt(error + 1e-9), 0.2, 5.0), x

    start = jnp.zeros_like(rate), jnp.full_like(rate, 0.01), jnp.ones_like(rate)
    return lax.while_loop(lambda state: state[0] < 1 - 1e-12, step, start)[2]


EXAMPLES = {  # the function, where, its derivative there by a formula
    "Newton's method": (cube_root, 27.0, 1 / 27),  # a^(-2/3) / 3
    "adaptive ODE solver": (decayed, 3.0, -1 / 16),  # of 1 / (1 + rate)
}


def refusal(fun, x: float) -> str:
    """What jax.grad says."""
    try:
        jax.jit(jax.grad(fun))(x)
    except ValueError as problem:
        return str(problem).split(". ")[0].rstrip(".")
    sys.exit("jax.grad differentiated a while_loop: this example has become pointless")


def main() -> None:
    """Print both gradients, and exit with a message if one is wrong."""
    for name, (fun, x, expected) in EXAMPLES.items():
        gradient = float(jax.jit(funcgrad.grad(fun))(x))
        difference = abs(gradient / expected - 1)
        print(f"{name}: jax.grad: {refusal(fun, x)}.")
        print(f"{name}: funcgrad.grad: {gradient:.9f}, by the formula {expected:.9f}")
        if not difference <= BOUND:  # also catches nan
            sys.exit(f"{name}: the gradient is off by {difference:.1e}, over {BOUND}")


if __name__ == "__main__":
    main()
