"""What a block is given can be tapped: arguments of the function, and what a loop gives to its body."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad
from funcgrad import _jax
from funcgrad.places.editing import CALLS
from funcgrad.places.program import ENTERED, Block, Place
from funcgrad.places.selectors import Selector, Site


@dataclass(frozen=True)
class Operand(Selector):
    """The first operand of each operation of one primitive."""

    op: str

    def places(self, program: Block) -> list[Place]:
        return [place for place in program.walk() if place.op.name == self.op]

    def sites(self, program: Block) -> list[Site]:
        return [
            Site((place,), place.block, (place.equation.invars[0],), str(place))
            for place in self.places(program)
        ]


def test_each_call_that_is_entered_can_be_run_with_changes():
    assert set(CALLS) == {*ENTERED, _jax.shard_map_p}  # which graphs alone enter


def test_an_argument_is_tapped():
    gradient, tapped = funcgrad.grad(lambda x: jnp.sum(x * x), taps={"x": Operand("mul")})(
        jnp.array([1.0, 2.0])
    )
    np.testing.assert_array_equal(tapped["x"].value, [1, 2])
    np.testing.assert_array_equal(tapped["x"].cotangent, gradient)


def test_a_loops_carry_is_tapped_at_each_step():
    def loss(x):
        return jax.lax.scan(lambda h, _: (jnp.tanh(h), None), x, length=3)[0]

    _, tapped = funcgrad.grad(loss, taps={"h": Operand("tanh")})(0.5)
    states = [0.5, np.tanh(0.5), np.tanh(np.tanh(0.5))]
    np.testing.assert_allclose(tapped["h"].value, states, rtol=1e-6)
    slopes = 1 - np.tanh(states) ** 2  # h_i' = tanh(h_i)
    np.testing.assert_allclose(tapped["h"].cotangent, np.cumprod(slopes[::-1])[::-1], rtol=1e-5)


def test_an_integer_inside_a_call_is_tapped():
    take = jax.jit(lambda table, i: table[2 * i])
    gradient, tapped = funcgrad.grad(
        lambda table: take(table, jnp.array([1, 0])).sum(), taps={"i": funcgrad.at(op="mul")}
    )(jnp.arange(4.0))
    np.testing.assert_array_equal(tapped["i"].value, [2, 0])
    assert tapped["i"].cotangents == [None]
    np.testing.assert_array_equal(gradient, [1, 0, 1, 0])
