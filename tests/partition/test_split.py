"""A jaxpr split in two: where residuals lie, and backward programs by pattern."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.scheduling_groups import xla_metadata_call

import funcgrad
from funcgrad.partition.split import Residuals, split_of


def test_a_residual_is_an_input_before_it_is_an_output_and_is_given_out_once():
    a, b, c = object(), object(), object()
    residuals, extra = Residuals.locate([c, a, b, c], inputs=[a], outputs=[a, b])
    assert extra == [c]
    assert residuals.find("i", ["o0", "o1"], ["e"]) == ["e", "i", "o1", "e"]


def test_forward_gives_out_what_is_neither_input_nor_output():
    closed = jax.make_jaxpr(lambda x, w: (jnp.exp(x), jnp.sin(x) * w))(1.0, 2.0)
    split = split_of(closed, (True, True), funcgrad.DEFAULT)
    outs, residuals = split.find_residuals([1.0, 2.0], split.forward.jitted(1.0, 2.0))
    assert len(outs) == 2
    kinds = [kind for kind, _ in split.residuals.locations]
    assert sorted(set(kinds)) == ["extra", "input", "output"]
    assert len(residuals) == len(kinds)
    assert split.backward((False, True)).present == (True, True)
    assert split.backward((True, False)).present == (True, False)


def test_a_backward_program_without_operations_is_not_called():
    add = jax.jit(lambda x, y: x + y)
    gradient = jax.make_jaxpr(funcgrad.grad(lambda x, y: add(x, y), (0, 1)))(1.0, 2.0)
    assert [str(eqn.primitive) for eqn in gradient.eqns] == ["jit"]  # the forward program
    split = split_of(jax.make_jaxpr(add)(1.0, 2.0), (True, True), funcgrad.DEFAULT)
    ct = jnp.float32(3.0)
    call = split.backward((True,)).call
    assert all(x is ct for x in call([ct], {}, shared=False))


@pytest.mark.parametrize("remat", [False, True], ids=["plain", "checkpoint"])
@pytest.mark.parametrize("derivative", ["grad", "value_and_grad"])
def test_a_number_is_no_residual(derivative, remat):
    """The jitted function is lowered as often as by JAX: its forward program gives out nothing more."""

    @xla_metadata_call(inlineable="false")
    @jax.jit
    def doubled(x):
        return x * 2

    layer = jax.checkpoint(doubled) if remat else doubled
    loss = lambda x: layer(layer(x)).sum()

    def lowered(module):
        text = jax.jit(getattr(module, derivative)(loss)).lower(jnp.arange(8.0)).as_text()
        return text.count("func.func private @xla_metadata_call")

    assert lowered(funcgrad) == lowered(jax)


def test_numbers_stand_in_the_backward_program():
    closed = jax.make_jaxpr(lambda x: jnp.sin(2 * x) * 3)(jnp.arange(2.0))
    split = split_of(closed, (True,), funcgrad.DEFAULT)
    assert [v.aval.shape for v in split.residual_variables] == [(2,)]
    gradient = funcgrad.grad(lambda x: jax.jit(lambda x: jnp.sin(2 * x) * 3)(x).sum())
    np.testing.assert_allclose(gradient(0.25 * jnp.arange(2.0)), 6 * np.cos([0, 0.5]), rtol=1e-6)


def masked(x, mask):
    return jnp.sum(jnp.where(mask, jnp.sin(x), 2.0) ** 2)


def test_a_residual_is_what_was_broadcast_and_not_its_copies():
    x, mask = jnp.arange(24.0).reshape(2, 3, 4), jnp.tril(jnp.ones((3, 4), bool))
    _, pullback = funcgrad.vjp(jax.jit(masked), x, mask)
    kept = [r.shape for r in jax.tree.leaves(pullback) if r.dtype == bool]
    assert kept == [mask.shape]
    ours, expected = (module.grad(masked)(x, mask) for module in (funcgrad, jax))
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(funcgrad.grad(masked))(x, mask), expected, rtol=1e-6)


def test_a_loop_keeps_one_mask_and_not_one_of_each_step():
    mask = jnp.tril(jnp.ones((3, 4), bool))

    def fun(x):
        step = lambda x, _: (jnp.sin(x) * jnp.where(mask, x, 2.0), None)
        return jnp.sum(jax.lax.scan(step, x, None, length=5)[0])

    x = jnp.linspace(-1.0, 1.0, 24).reshape(2, 3, 4)
    assert "bool[5" not in str(jax.make_jaxpr(funcgrad.grad(fun))(x))
    np.testing.assert_allclose(funcgrad.grad(fun)(x), jax.grad(fun)(x), rtol=1e-5)
