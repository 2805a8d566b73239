"""Our gradient's cost beside that of jax.grad: rules whose costs are known by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Primitive

import funcgrad
from funcgrad.inspect import cost

W, X = jnp.ones((4, 8)), jnp.ones((8, 16))


def beside(fun: Any, *args: Any, **options: Any) -> Any:
    found = cost(fun, *args, xla=False, against_jax=True, **options).beside
    assert found is not None
    return found


def rules_of(found: Any) -> dict[str, Any]:
    return {row.name: row for row in found.by_op}


def test_the_same_rules_cost_the_same():
    found = beside(lambda w, x: jnp.sum(w @ x), W, X)
    assert found.jax is not None
    assert found.ours.operations == found.jax.operations
    product = rules_of(found)["dot_general"]
    assert product.ours.operations == product.jax.operations == 2 * 2 * 4 * 8 * 16
    assert product.jax.bytes - product.ours.bytes == 2 * 4 * X.size  # JAX transposes one result
    assert product.verdict == "better"


def wasteful_vjp(ct: Any, x: Any, *, out: Any, **_: Any) -> Any:
    for _ in range(10):
        ct = ct * 1.0
    return ct * jnp.cos(x)


def test_a_wasteful_rule_is_found():
    rules = funcgrad.DEFAULT.override({lax.sin_p: wasteful_vjp})
    found = beside(lambda x: jnp.sum(jnp.sin(jnp.exp(x))), X, rules=rules)
    worst = found.by_op[0]
    assert (worst.name, worst.verdict) == ("sin", "worse")
    assert worst.ours.operations - worst.jax.operations == 10 * X.size
    assert rules_of(found)["exp"].verdict == "the same"
    assert "worse" in str(found)
    assert "the same: exp" in str(found)


def test_an_op_without_a_derivative_is_named():
    without_p = Primitive("without")
    without_p.def_abstract_eval(lambda x: x)
    found = beside(lambda x: jnp.sum(x * without_p.bind(lax.stop_gradient(x))), X)
    assert found.not_compared == ("without",)
    assert "not compared: without" in str(found)


def test_rules_count_as_often_as_their_ops_run():
    def looped(x: Any) -> Any:
        return jnp.sum(lax.scan(lambda x, _: (jnp.sin(x), None), x, None, length=7)[0])

    (row,) = [row for row in beside(looped, X).by_op if row.name == "sin"]
    assert row.count == 7
    assert row.jax.operations == 7 * 2 * X.size  # cos(x), and the product


def test_a_function_with_a_rule_of_its_own_is_one_op():
    found = rules_of(beside(lambda x: jnp.sum(jax.nn.relu(x)), X))
    assert "relu" in found
    assert "max" not in found


def test_what_jax_refuses_is_said():
    newton = lambda a: lax.while_loop(lambda x: x * x > a, lambda x: (x + a / x) / 2, a)
    found = beside(newton, 9.0)
    assert found.jax is None
    assert "JAX does not differentiate" in str(found)
    assert "while_loop" in str(found)


def test_xla_figures_of_both():
    found = cost(lambda w, x: jnp.sum(jnp.tanh(w @ x)), W, X, against_jax=True).beside
    assert found is not None
    assert found.xla_ours is not None
    assert found.xla_jax is not None
    assert found.xla_jax.transcendentals == W.shape[0] * X.shape[1]
    assert "As XLA counts" in str(found)


@pytest.mark.parametrize("asked", [True, False])
def test_only_where_it_is_asked(asked):
    found = cost(lambda x: jnp.sum(x), X, xla=False, against_jax=asked)
    assert (found.beside is not None) == asked
    assert ("jax.grad" in str(found)) == asked
