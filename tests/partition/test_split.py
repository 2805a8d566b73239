"""A jaxpr split in two: where residuals lie, and backward programs by pattern."""

from __future__ import annotations

import jax
import jax.numpy as jnp

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
