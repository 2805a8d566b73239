"""What a gradient through diffrax's loop as it is written costs, beside that of diffrax's own loop."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from tests.ecosystem.compare import draw, load

dfx = load("diffrax")


def neural_ode(params: Any, y0: Any, adjoint: Any) -> Any:
    """A 2-32-32-2 network as the field, and 20 saved times."""

    def field(t: Any, y: Any, params: Any) -> Any:
        *hidden, last = params
        for w in hidden:
            y = jnp.tanh(y @ w)
        return y @ last

    saved = dfx.diffeqsolve(
        dfx.ODETerm(field), dfx.Tsit5(), 0.0, 9.0, 0.01, y0, params,
        saveat=dfx.SaveAt(ts=jnp.linspace(0.0, 9.0, 20)), adjoint=adjoint,
        stepsize_controller=dfx.PIDController(rtol=1e-7, atol=1e-7),
    )  # fmt: skip
    return jnp.mean(saved.ys**2), saved.stats["num_steps"]


@pytest.mark.slow
def test_a_neural_ode_takes_no_more_memory_than_diffrax_and_a_smaller_program() -> None:
    sizes = (2, 32, 32, 2)
    pairs = itertools.pairwise(sizes)
    params = [4 * n**-0.5 * draw(i, n, m) for i, (n, m) in enumerate(pairs)]
    args = jax.tree.map(lambda x: x.astype(jnp.float32), (params, jnp.array([2.0, 0.0])))

    def compiled(transform: Any, adjoint: Any) -> Any:
        fun = transform(lambda *args: neural_ode(*args, adjoint), argnums=(0, 1), has_aux=True)
        return jax.jit(fun).lower(*args).compile()

    ours = compiled(funcgrad.value_and_grad, dfx.ForwardMode())
    theirs = compiled(jax.value_and_grad, dfx.RecursiveCheckpointAdjoint())
    (found, steps), gradient = ours(*args)
    (wanted, _), reference = theirs(*args)
    assert steps > 32  # more than there are snapshots
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.max(jnp.abs(b))))
    sizes_of = [c.memory_analysis().temp_size_in_bytes for c in (ours, theirs)]
    assert sizes_of[0] <= sizes_of[1]
    lines = [len(c.as_text().splitlines()) for c in (ours, theirs)]
    assert lines[0] <= lines[1]
