"""Each formula is true: against JAX's values and gradients on numbers."""

from __future__ import annotations

import ast
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad.inspect import graph
from funcgrad.inspect.graphs.mathematics import FORMULAS, NOTATIONS

ELEMENTARY = ("exp", "log", "tanh", "sin", "cos", "tan", "sqrt", "erf")
FUNCTIONS = {name: getattr(math, name) for name in ELEMENTARY}
KNOWN = {**FUNCTIONS, "pi": math.pi, "abs": abs, "max": max, "min": min}

POINTS = {1: [(0.7,), (0.4,)], 2: [(0.7, 1.3), (1.3, 0.7), (0.5, 0.5)]}


OF_LAX = {
    lax.integer_pow_p: lambda x: lax.integer_pow(x, 3),
    lax.convert_element_type_p: lambda x: lax.convert_element_type(x, np.float32),
    lax.select_n_p: lambda p, a, b: lax.select_n(p > 0, a, b),
    lax.copy_p: lambda x: jnp.array(x, copy=True),
}


def applied(op):
    """The operation as a function of JAX's."""
    name = getattr(op, "name", None)
    return jax.nn.relu if name is None else OF_LAX.get(op) or getattr(lax, name)


@pytest.mark.parametrize("op", FORMULAS, ids=str)
def test_formula(op):
    formula = FORMULAS[op]
    points = (
        [(1.0, 0.7, 1.3), (0.0, 0.7, 1.3)] if len(formula.cts) == 3 else POINTS[len(formula.cts)]
    )
    fun = applied(op)
    for point in points:
        point = tuple(map(np.float32, point))
        names = {**dict(zip(formula.operands, point, strict=True)), **KNOWN, "n": 3}
        value = eval(formula.value, names)
        np.testing.assert_allclose(value, fun(*point), rtol=1e-5)
        wanted = tuple(i for i, ct in enumerate(formula.cts) if ct)
        expected = jax.grad(lambda *args, fun=fun: 2.5 * fun(*args), wanted)(*point)
        found = [eval(formula.cts[i], {**names, "y": value, "ct": 2.5}) for i in wanted]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("op", FORMULAS, ids=str)
def test_notation_has_a_part_for_each_operand(op):
    formula = FORMULAS[op]
    value, cts = formula.notation.split(";  ")
    assert value.startswith("y = ")
    assert cts.count("ȳ") >= sum(map(bool, formula.cts))


@pytest.mark.parametrize("op", NOTATIONS, ids=str)
def test_other_notations_say_the_result_and_the_cotangent(op):
    value, ct = NOTATIONS[op].split(";  ")
    assert "=" in value
    assert "=" in ct
    assert "\u0304" in ct or "ȳ" in ct or "Ȳ" in ct


def test_the_textbook():
    (node,) = graph(jnp.tanh, 0.5).nodes
    assert node.op.mathematics == "y = tanh(x);  x̄ = ȳ (1 - y²)"


def test_another_rule_has_no_mathematics_of_ours():
    rules = funcgrad.DEFAULT.override({lax.tanh_p: lambda ct, x, **_: ct})
    (node,) = graph(jnp.tanh, 0.5, rules=rules).nodes
    assert node.op.mathematics == ""


def test_formulas_are_expressions_over_what_they_name():
    for formula in FORMULAS.values():
        allowed = {*formula.operands, *formula.params, *KNOWN, "y", "ct"}
        for text in filter(None, (formula.value, *formula.cts)):
            names = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
            assert names <= allowed
