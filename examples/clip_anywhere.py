"""Watch a recurrent network's cotangents explode, and clip them where they arise.

    python examples/clip_anywhere.py

Clipping the parameters' gradient comes too late: it is a sum over steps in which the earliest have
drowned all others. Here the state's cotangent is clipped at each step of a scan, inside jit, in a
network that is not edited, and its norm at each step is tapped in the same backward pass.
"""

import sys

import jax
import jax.numpy as jnp
from jax import Array, lax

import funcgrad
from funcgrad.surgery.methods import norm_clipped_at

STEPS, UNITS, MOST = 60, 64, 1.0
STATE = funcgrad.at(op="tanh")


def loss(w: Array, inputs: Array) -> Array:
    """The squared last state of a recurrent network."""

    def step(h: Array, x: Array) -> tuple[Array, None]:
        return jnp.tanh(h @ w + x), None

    h, _ = lax.scan(step, jnp.zeros(UNITS), inputs)
    return jnp.mean(h**2)


def norms_of(edit, w: Array, inputs: Array) -> tuple[Array, Array]:
    """The norms of the gradient by w, and of the cotangents that arrive at the state in each step."""
    gradient = funcgrad.grad(loss, taps={"state": STATE}, edit=edit)
    by_w, tapped = jax.jit(gradient)(w, inputs)
    return jnp.linalg.norm(by_w), jnp.linalg.norm(tapped["state"].cotangent, axis=-1)


def bar(norm: float) -> str:
    """A character for each factor of ten above 0.001."""
    return "█" * max(0, round(float(jnp.log10(norm)) + 3))


def main() -> None:
    keys = jax.random.split(jax.random.key(0))
    w = 3 * jax.random.normal(keys[0], (UNITS, UNITS)) / UNITS**0.5
    inputs = 0.1 * jax.random.normal(keys[1], (STEPS, UNITS))
    by_w, free = norms_of([], w, inputs)
    by_w_clipped, clipped = norms_of([norm_clipped_at(STATE, MOST)], w, inputs)
    print("step   |ct| that arrives at the state: as it is, and with each clipped to 1")
    for i in range(0, STEPS, 4):
        print(f"{i:4} {free[i]:11.1e} {clipped[i]:9.1e}  {bar(free[i]):18} {bar(clipped[i])}")
    print(f"gradient by w: {by_w:.1e}, clipped at each step {by_w_clipped:.1e}")
    most = MOST * jnp.linalg.norm(w, 2)  # what one step makes of a cotangent of norm MOST
    if not jnp.all(clipped <= 1.001 * most):
        sys.exit(f"a cotangent arrives that is larger than {most:.1f}")


if __name__ == "__main__":
    main()
