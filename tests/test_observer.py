"""An observer is told of every node, inside calls too, and can replace cotangents."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import extend

X = jnp.array([0.5, -1.5, 2.0])


@dataclass(eq=False)
class Listing:
    """Notes the ops that are recorded and pulled."""

    recorded_ops: list[str] = field(default_factory=list)
    pulled_ops: list[str] = field(default_factory=list)

    def recorded(self, node: Any, outs: Any) -> None:
        assert all(hasattr(out, "shape") for out in outs)
        self.recorded_ops.append(str(node.op).split(" at ")[0])

    def pulled(self, node: Any, cts: Any, results: Any) -> Any:
        assert len(cts) == len(node.outputs)
        assert len(results) == len(node.operands)
        self.pulled_ops.append(str(node.op).split(" at ")[0])
        return results


@dataclass(frozen=True)
class Scaled:
    """Multiplies what an op gives back, in a name scope."""

    op: Any
    by: float
    scope: str = ""
    around: str = ""

    def within(self, scope: str) -> Scaled:
        return replace(self, around=f"{self.around}{scope}/")

    def recorded(self, node: Any, outs: Any) -> None:
        pass

    def pulled(self, node: Any, cts: Any, results: Any) -> Any:
        if node.op is not self.op or not f"{self.around}{node.scope}".startswith(self.scope):
            return results
        return [None if ct is None else self.by * ct for ct in results]


@jax.custom_jvp
def custom(x):
    return jnp.sin(x)


custom.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), tangents[0] * jnp.cos(primals[0])))


def repeated(x):
    return lax.scan(lambda c, _: (jax.checkpoint(jnp.sin)(c), None), x, None, length=1)[0]


def once(x):
    return lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1]


CALLS = {
    "plain": jnp.sin,
    "jit": jax.jit(lambda x: jnp.sin(x)),
    "scan": lambda x: lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=1)[0],
    "while": once,
    "cond": lambda x: lax.cond(True, jnp.sin, lambda x: x, x),
    "checkpoint": jax.checkpoint(jnp.sin),
    "vmap": jax.vmap(jnp.sin),
    "nested": jax.jit(repeated),
}


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jitted"])
@pytest.mark.parametrize("name", CALLS)
def test_cotangents_are_replaced_inside_calls(name, jit):
    rules = funcgrad.DEFAULT.observed_by(Scaled(lax.sin_p, 100.0))
    gradient = funcgrad.grad(lambda x: CALLS[name](x).sum(), rules=rules)
    found = (jax.jit(gradient) if jit else gradient)(X)
    np.testing.assert_allclose(found, 100 * jnp.cos(X), rtol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_every_node_is_told_of(name):
    listing = Listing()
    funcgrad.grad(lambda x: CALLS[name](x).sum(), rules=funcgrad.DEFAULT.observed_by(listing))(X)
    assert "sin" in listing.recorded_ops
    assert "sin" in listing.pulled_ops


def test_a_custom_jvp_tells_of_its_tangents():
    listing = Listing()
    funcgrad.grad(lambda x: custom(x).sum(), rules=funcgrad.DEFAULT.observed_by(listing))(X)
    assert "custom" in listing.recorded_ops
    assert "mul" in listing.pulled_ops


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jitted"])
def test_one_jitted_function_in_two_scopes_is_told_apart(jit):
    @jax.jit
    def layer(x):
        with jax.named_scope("inner"):
            return jnp.sin(x)

    def model(x, y):
        with jax.named_scope("enc"):
            a = layer(x)
        with jax.named_scope("dec"):
            b = layer(y)
        return (a + b).sum()

    for scope, factors in (("enc/inner", (100, 1)), ("dec", (1, 100)), ("inner", (1, 1))):
        rules = funcgrad.DEFAULT.observed_by(Scaled(lax.sin_p, 100.0, scope))
        gradient = funcgrad.grad(model, (0, 1), rules=rules)
        found = (jax.jit(gradient) if jit else gradient)(X, 2 * X)
        np.testing.assert_allclose(found[0], factors[0] * jnp.cos(X), rtol=1e-6)
        np.testing.assert_allclose(found[1], factors[1] * jnp.cos(2 * X), rtol=1e-6)


def test_cotangents_have_the_shapes_of_their_values():
    shapes = []

    @dataclass(frozen=True)
    class Shapes:
        def recorded(self, node, outs):
            pass

        def pulled(self, node, cts, results):
            shapes.extend((ct.shape, str(node.op)) for ct in cts if ct is not None)
            return results

    def fun(x, bias):
        y = jnp.tanh(jnp.tanh(bias) * 2.0)
        return jnp.sum(x * y)

    rules = funcgrad.DEFAULT.observed_by(Shapes())
    jax.make_jaxpr(funcgrad.grad(fun, (0, 1), rules=rules))(jnp.ones((4, 3)), jnp.ones((1, 3)))
    assert ((1, 3), "tanh") in shapes
    assert ((4, 3), "tanh") not in shapes


def test_rules_without_an_observer_are_the_same_in_every_scope():
    assert funcgrad.DEFAULT.within("enc") is funcgrad.DEFAULT
    watched = funcgrad.DEFAULT.observed_by(Listing())
    assert watched.within("enc") is watched
    scaled = funcgrad.DEFAULT.observed_by(Scaled(lax.sin_p, 2.0))
    assert scaled.within("enc") is scaled.within("enc") != scaled


def test_tapes_inside_are_reached_from_their_nodes():
    def fun(x):
        y = jax.jit(lambda x: lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=2)[0])(x)
        return lax.cond(True, jnp.exp, jnp.tanh, y)

    tape = extend.tape_of(fun, X, rules=funcgrad.DEFAULT)
    assert [sorted(node.pullback.inner) for node in tape.nodes] == [
        ["body"],
        ["branch 0", "branch 1"],
    ]
    ops = {str(node.op) for node in extend.walk_nodes(tape)}
    assert {"scan", "sin", "cond", "exp", "tanh"} <= ops


def test_why_a_residual_is_kept():
    tape = extend.tape_of(lambda x, y: jnp.tanh(x * y), 1.0, 2.0, rules=funcgrad.DEFAULT)
    assert [(str(node.op), node.reasons) for node in tape.nodes] == [
        ("mul", (("operand", 0), ("operand", 1))),
        ("tanh", (("output", 0),)),
    ]
