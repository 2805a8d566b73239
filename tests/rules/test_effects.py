"""Rows for what observes, names or places a value and leaves it as it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import checkify
from jax.experimental.layout import Layout, with_layout_constraint
from jax.experimental.xla_metadata import set_xla_metadata

import funcgrad
from funcgrad import _jax
from tests.rules.cases import Case, normal, primitives_in

metadata_p = _jax.xla_metadata_value_p
layout_p = _jax.layout_constraint_p
shard_alike_p = _jax.shard_alike_p
space_p = _jax.with_memory_space_constraint_p
stage_p = _jax.stage_p
tie_p = _jax.tie_p
shard_alike = _jax.shard_alike

CASES = [
    Case(metadata_p, lambda x: set_xla_metadata(x * x, kind="square"), (normal(3),)),
    Case(
        layout_p,
        lambda x: with_layout_constraint(x * x, Layout((1, 0))),
        (normal(2, 3),),
        vmap=False,
    ),
    Case(_jax.held_p, lambda x: _jax.held_p.bind(x * x), (normal(3),)),
    Case(tie_p, lambda x, y: tie_p.bind(x * y, y * y), (normal(3), normal(3, seed=1))),
]
if shard_alike_p is not None:  # until JAX 0.10
    CASES += [
        Case(shard_alike_p, lambda x: shard_alike(x * x, jnp.sin(x)), (normal(3),)),
        Case(
            shard_alike_p, lambda x: shard_alike(x * x, jnp.sin(x))[1], (normal(3),), "one output"
        ),
    ]

TESTED_APART = (stage_p, space_p, _jax.tap_p)  # taps: tests/places/test_taps.py

ZEROS = {
    "dce_sink_p": lambda x: lax.dce_sink(x) if hasattr(lax, "dce_sink") else None,
    "debug_print_p": lambda x: (
        jax.debug.print("", skip_format_check=True) or jax.debug.print("{x}", x=x[:0])
    ),
    "debug_callback_p": lambda x: jax.debug.callback(lambda _: None, x),
    "inspect_sharding_p": lambda x: jax.debug.inspect_array_sharding(x, callback=lambda _: None),
    "check_p": lambda x: checkify.check(jnp.all(x < 9), "large: {x}", x=x[0]),
}


@pytest.mark.parametrize("p", [stage_p, space_p], ids=["stage", "space"])
def test_marker(p, request):
    """Outside jit an identity; these have no documented function that runs on a CPU."""
    if p is None:
        pytest.skip(f"JAX {jax.__version__} has no marker of this name: {request.node.name}")
    params = {} if p is stage_p else {"memory_space": jax.memory.Space.Device}
    try:
        p.bind(jnp.ones(3), **params)
    except NotImplementedError:
        pytest.skip(f"JAX {jax.__version__} itself cannot run {p} on a {jax.default_backend()}")
    assert (
        funcgrad.grad(lambda x: jnp.sum(p.bind(x * x, **params)))(jnp.ones(3)).tolist() == [2.0] * 3
    )


@pytest.mark.parametrize("observe", ZEROS.values(), ids=ZEROS.keys())
def test_observer(observe):
    def fun(x):
        observe(x * x)
        return jnp.sum(jnp.sin(x))

    with jax.enable_x64(True):
        x = jnp.asarray(normal(3))
        expected = np.cos(x)
        run = checkify.checkify if observe is ZEROS["check_p"] else lambda f: lambda x: (None, f(x))
        for grad in (funcgrad.grad(fun), jax.grad(fun)):
            np.testing.assert_allclose(run(grad)(x)[1], expected, rtol=1e-12)
            np.testing.assert_allclose(run(jax.jit(grad))(x)[1], expected, rtol=1e-12)
        if observe is not ZEROS["dce_sink_p"]:
            assert {str(p) for p in primitives_in(fun, x)} > {
                str(p) for p in primitives_in(jnp.sin, x)
            }
