"""What the registry, traced values and pullbacks look like when they are printed."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import DEFAULT, errors
from funcgrad.registry import CallRule, Rule, ZeroRule
from funcgrad.rules import elementwise, special

# --- rules


def line_of(module: Any, text: str) -> str:
    lines = inspect.getsource(module).splitlines()
    return f"{module.__file__}:{1 + next(i for i, line in enumerate(lines) if text in line)}"


def test_an_entry_of_a_table_shows_its_line_of_the_table():
    shown = repr(DEFAULT[lax.tan_p]).splitlines()
    where = line_of(elementwise, "lax.tan_p")
    assert shown == [
        f"<elementwise rule `tan_vjp` of `tan`, at {where}>",
        "    lax.tan_p: lambda x, y: 1 + y * y,",
    ]


def test_a_rule_shows_its_function():
    shown = str(DEFAULT[lax.atan2_p])
    assert line_of(elementwise, "@defvjp(lax.atan2_p") in shown
    assert "    def atan2_vjp(ct: Array, y: Array" in shown
    assert "return x / radius_squared * ct" in shown


@pytest.mark.parametrize("entry", dict.fromkeys(DEFAULT.values()), ids=lambda e: str(e.ops[0]))
def test_every_entry_says_what_it_is(entry):
    head, *source = repr(entry).splitlines()
    assert all(f"`{op}`" in head for op in entry.ops)
    if isinstance(entry, Rule):
        assert entry.source in head
        whole = "\n".join(line[4:] for line in source)
        in_a_table = re.match(r"[\w.()\"]+: lambda", whole)
        ast.parse(f"{{{whole}}}" if in_a_table else whole)  # no line is missing
    elif isinstance(entry, ZeroRule):
        assert "zero or undefined" in head
    else:
        assert isinstance(entry, CallRule)
        assert "through what it calls" in head
        assert ".py:" in head


def test_a_lambda_on_several_lines_is_shown_whole():
    rule = Rule(
        lambda ct, x, **_: (
            ct * 3  # a factor
        ),
        (lax.sin_p,),
    )
    assert [line.strip() for line in repr(rule).splitlines()[1:]] == [
        "lambda ct, x, **_: (",
        "ct * 3  # a factor",
    ]


def test_a_rule_without_source_shows_none():
    scope: dict[str, Any] = {}
    exec("rule = lambda ct, x, **_: ct\ndef named(ct, x, **_): return ct", scope)
    for fn in (scope["rule"], scope["named"], functools.partial(lambda ct, x: ct), np.sin):
        assert "`sin`" in repr(Rule(fn, (lax.sin_p,)))


def test_an_op_without_a_rule_is_named_with_where_to_look():
    with pytest.raises(KeyError, match=r"`tanh at .*` has no rule of its own.*inspect\.coverage"):
        DEFAULT[jnp.tanh]
    assert jnp.tanh not in DEFAULT


def test_the_rules_are_listed_by_family():
    shown = str(DEFAULT)
    assert shown.startswith(f"<rules of {len(DEFAULT)} ops\n")
    families = dict(line.strip().split(": ", 1) for line in shown.splitlines() if ": " in line)
    assert families["elementwise"].startswith("acos, acosh, asin")
    assert "calls" in families
    assert "zero or undefined by nature" in families
    assert special.__name__.rpartition(".")[2] in families
    assert "third-party" in shown
    assert "third-party" not in str(DEFAULT.strict())
    words = shown.replace(",", " ").split()
    assert all(str(op).split(" at ")[0] in words for op in DEFAULT if " " not in str(op))
    assert max(map(len, shown.splitlines())) <= 88


def own_rule(ct: Any, x: Any, **_: Any) -> Any:
    return ct


def test_a_rule_of_the_users_stands_under_their_module():
    rules = DEFAULT.override({jax.nn.relu: own_rule})
    assert f"  {__name__}: relu\n" in str(rules)
    assert "\n    def own_rule(ct" in str(rules[jax.nn.relu])
    assert str(funcgrad.Rules()) == "<rules of 0 ops>"


# --- traced values


def printed(x: Any) -> Any:
    seen.append((str(x), repr(x), f"{x}"))
    return jnp.sum(x * x)


seen: list[tuple[str, str, str]] = []
X = np.arange(3, dtype=np.float32)
VALUE = (
    "[0. 1. 2.] (traced for a gradient)",
    "Array([0., 1., 2.], dtype=float32) (traced for a gradient)",
    "[0. 1. 2.] (traced for a gradient)",
)
TYPE = ("float32[3] (traced for a gradient)",) * 3


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda x: funcgrad.grad(printed)(x), VALUE),
        (lambda x: funcgrad.grad(lambda x: funcgrad.grad(printed)(x).sum())(x), VALUE),
        (lambda x: jax.grad(lambda x: funcgrad.grad(printed)(x).sum())(x), VALUE),
        (lambda x: funcgrad.vjp(printed, x), VALUE),
        (lambda x: jax.jit(funcgrad.grad(printed))(x), TYPE),
        (lambda x: funcgrad.grad(jax.jit(printed))(x), None),
        (lambda x: jax.vmap(funcgrad.grad(printed))(x[None]), TYPE),
    ],
    ids=["eager", "nested", "under jax.grad", "vjp", "under jit", "of jit", "under vmap"],
)
def test_a_traced_value_prints_its_value_where_it_has_one(call, expected):
    seen.clear()
    call(jnp.asarray(X))
    assert seen
    if expected is not None:
        assert seen[0] == expected


def test_a_tangent_has_no_value_to_print_or_to_branch_on():
    @jax.custom_jvp
    def same(x: Any) -> Any:
        return x

    def rule(primals: Any, tangents: Any) -> Any:
        seen.append((str(tangents[0]), repr(tangents[0]), ""))
        return primals[0], tangents[0] * 2 if tangents[0] else tangents[0]

    same.defjvp(rule)
    seen.clear()
    with pytest.raises(
        errors.InputError, match="asked whether something computed from its tangents"
    ):
        funcgrad.grad(same)(1.0)
    assert seen == [("float32[] (traced for a gradient)",) * 2 + ("",)]


# --- pullbacks


def loss(params: Any, x: Any, *more: Any) -> Any:
    return jnp.sum(jnp.tanh(params["w"] @ x))


ARGS = {"w": jnp.ones((2, 3))}, jnp.ones(3)


def test_a_pullback_says_whose_it_is_and_what_it_keeps():
    pullback = funcgrad.vjp(loss, *ARGS)[1]
    assert repr(pullback) == "<pullback of loss(params, x): 3 residuals, 44 bytes>"
    big = funcgrad.vjp(jnp.sin, jnp.ones(1000))[1]
    assert repr(big).endswith("(x): 1 residual, 4,000 bytes>")


def test_a_pullback_without_arrays_can_be_printed():
    pullback = funcgrad.vjp(loss, *ARGS)[1]
    expected = repr(pullback)
    shapes = jax.eval_shape(lambda: funcgrad.vjp(loss, *ARGS)[1])
    assert repr(shapes).startswith("<pullback of loss(params, x)")
    assert repr(jax.tree.map(lambda _: None, pullback)) == expected.replace("44", "0")
    assert repr(jax.tree.map(lambda _: object(), pullback)) == expected.replace("44", "0")
    in_jit: list[str] = []
    jax.jit(lambda pullback: in_jit.append(repr(pullback)))(pullback)
    assert in_jit == [expected]


class Model:
    def predict(self, x: Any, y: Any) -> Any:
        return x * y

    def __call__(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize(
    ("fun", "args", "expected"),
    [
        (Model().predict, (1.0, 2.0), "predict(x, y)"),
        (Model(), (1.0,), "(argument 0)"),
        (functools.partial(loss, ARGS[0]), (ARGS[1],), "loss(x)"),
        (loss, (*ARGS, 1.0), "loss(params, x, argument 2)"),
        (jax.jit(loss), ARGS, "loss(params, x)"),
        (funcgrad.grad(loss), ARGS, "loss(params, x)"),
    ],
    ids=["method", "object", "partial", "starred", "jitted", "gradient"],
)
def test_the_arguments_of_a_pullback_have_the_functions_names(fun, args, expected):
    assert expected in repr(funcgrad.vjp(fun, *args)[1])
