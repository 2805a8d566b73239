"""Which rule differentiates which op."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

import funcgrad
from tests.calls.test_third_party import cube_p


def kinds(fun, *args, **options):
    found = funcgrad.inspect.coverage(fun, *args, **options)
    return {str(row.op).split(" at ")[0]: row.kind for row in found.rows}


def test_rules_zero_entries_and_integers():
    found = kinds(lambda x, i: jnp.sin(x) * jnp.floor(x) + x[i + 1] + 0 * i, jnp.ones(3), 1)
    assert found["sin"] == found["mul"] == "rule"
    assert found["floor"] == "zero"


def test_every_row_of_a_rule_names_it_and_its_line():
    found = funcgrad.inspect.coverage(lambda x: jnp.sum(jnp.tanh(x @ x)), jnp.ones((2, 2)))
    rows = {str(row.op): row for row in found.rows}
    assert rows["tanh"].rule == "tanh_vjp"
    assert "rules/elementwise.py:" in rows["tanh"].source
    assert rows["dot_general"].rule == "dot_general_vjp"
    assert "rules/linear.py:" in rows["dot_general"].source
    assert found.of_kind("missing") == ()


def test_counts_occurrences_inside_calls():
    def fun(x):
        x = lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=7)[0]
        return lax.cond(x > 0, jnp.sin, lambda x: jnp.sin(jnp.sin(x)), x)

    rows = {str(row.op): row for row in funcgrad.inspect.coverage(fun, 1.0).rows}
    assert rows["sin"].count == 4
    assert rows["scan"].kind == rows["cond"].kind == "call"


def test_custom_functions_and_functions_with_a_rule():
    @jax.custom_vjp
    def f(x):
        return jnp.cosh(x)

    f.defvjp(lambda x: (f(x), x), lambda x, ct: (ct,))
    found = kinds(lambda x: f(jax.nn.relu(x)), 1.0)
    assert found == {"f": "custom", "relu": "rule"}
    rules = funcgrad.DEFAULT.override({f: lambda ct, x, **_: ct})
    assert kinds(lambda x: f(jax.nn.relu(x)), 1.0, rules=rules) == {"f": "rule", "relu": "rule"}


def test_third_party_primitives_fall_back_or_are_missing():
    fun = lambda x: cube_p.bind(x, k=1.0)
    assert kinds(fun, 1.0) == {"third_party_cube": "fallback"}
    assert kinds(fun, 1.0, strict=True) == {"third_party_cube": "missing"}
    assert str(funcgrad.inspect.coverage(fun, 1.0).of_kind("fallback")[0].op) == "third_party_cube"


def test_the_table():
    table = str(funcgrad.inspect.coverage(lambda x: jnp.sin(jnp.round(x)), jnp.ones(2)))
    head, *lines = table.splitlines()
    assert head.split() == ["op", "count", "kind", "rule", "source"]
    assert [line.split()[:4] for line in lines if line.startswith("sin")] == [
        ["sin", "1", "rule", "sin_vjp"]
    ]
    assert not any(line.endswith(" ") for line in lines)


def test_shapes_are_enough():
    spec = jax.ShapeDtypeStruct((3,), jnp.float32)
    assert kinds(jnp.cos, spec) == {"cos": "rule"}
