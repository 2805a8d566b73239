"""Errors say what was asked, what was found, what to do, and where in the user's source."""

from __future__ import annotations

import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive

import funcgrad
from funcgrad import errors
from tests.compare import assert_same

own_p = Primitive("own_op")
own_p.def_impl(lambda x: np.sin(x))
own_p.def_abstract_eval(lambda x: x)


def line_of(fun: Any, text: str) -> str:
    """``file:line`` of the line in `fun` that contains `text`."""
    lines, first = inspect.getsourcelines(fun)
    number = next(first + i for i, line in enumerate(lines) if text in line)
    return f"test_errors.py:{number}"


def check_message(raised: Any, *parts: str) -> str:
    """It is ours, and says each of the parts."""
    assert isinstance(raised.value, funcgrad.FuncgradError)
    message = str(raised.value)
    for part in parts:
        assert part in message, f"{part!r} is not in: {message}"
    return message


def loss(x: Any, y: Any = 1.0) -> Any:
    return jnp.sum(x * y)


X = np.ones(3, np.float32)
OUTPUT, INPUT, ARGNUMS = errors.OutputError, errors.InputError, errors.ArgnumsError
CT = errors.CotangentError


def pull(fun: Any, *primals: Any) -> Any:
    return funcgrad.vjp(fun, *primals)[1]


# (kind, JAX's or Python's own class that it is as well, call, parts of the message)
USES = {
    "not scalar": (OUTPUT, TypeError, lambda: funcgrad.grad(lambda x: x * 2)(X),
                   ["test_errors.py:", "one scalar", "float32[3]", "jnp.sum", "has_aux"]),
    "several outputs": (OUTPUT, TypeError, lambda: funcgrad.grad(lambda x: (x, x))(1.0),
                        ["one scalar", "float32[], ", "has_aux=True"]),
    "no output": (OUTPUT, TypeError, lambda: funcgrad.grad(lambda x: None)(1.0),
                  ["one scalar", "nothing"]),
    "no array": (OUTPUT, TypeError, lambda: funcgrad.grad(lambda x: "text")(1.0),
                 ["'text'", "str", "no array", "has_aux"]),
    "no array, vjp": (OUTPUT, TypeError, lambda: funcgrad.vjp(lambda x: {"a": "text"}, 1.0),
                      ["'text'", "str", "no array", "['a']"]),
    "no pair": (OUTPUT, TypeError, lambda: funcgrad.grad(loss, has_aux=True)(1.0),
                ["loss", "has_aux=True", "pair", "an array of type float32[]"]),
    "three for a pair": (
        OUTPUT, TypeError, lambda: funcgrad.grad(lambda x: (x, x, x), has_aux=True)(1.0),
        ["has_aux=True", "a tuple of 3"]),
    "no pair, vjp": (OUTPUT, TypeError, lambda: funcgrad.vjp(lambda x: {"a": x}, 1.0, has_aux=True),
                     ["has_aux=True", "dict"]),
    "integer output": (OUTPUT, TypeError, lambda: funcgrad.grad(lambda x: 3)(1.0),
                       ["int32[]", "floating"]),
    "complex output": (OUTPUT, TypeError, lambda: funcgrad.grad(lambda z: z * 1j)(1.0 + 0j),
                       ["complex64[]", "holomorphic=True", "vjp"]),
    "complex output, jacrev": (OUTPUT, TypeError, lambda: funcgrad.jacrev(lambda z: z)(1j),
                               ["complex64[]", "holomorphic=True"]),
    "real, holomorphic": (INPUT, TypeError, lambda: funcgrad.grad(loss, holomorphic=True)(1.0),
                          ["loss", "float32[]", "holomorphic=True", "complex"]),
    "real output, holomorphic": (
        OUTPUT, TypeError, lambda: funcgrad.grad(lambda z: z.real, holomorphic=True)(1j),
        ["float32[]", "holomorphic=True", "complex"]),
    "integer": (INPUT, TypeError, lambda: funcgrad.grad(loss)({"a": [2]}),
                ["loss", "int32[]", "allow_int=True", "argnums", "['a'][0]"]),
    "bool": (INPUT, TypeError, lambda: funcgrad.grad(loss)(True), ["bool[]", "allow_int"]),
    "integer, jacrev": (INPUT, TypeError, lambda: funcgrad.jacrev(loss)(2), ["int32[]", "loss"]),
    "key": (INPUT, TypeError, lambda: funcgrad.grad(jax.random.normal)(jax.random.key(0)),
            ["normal", "key<fry>[]", "PRNG key", "argnums"]),
    "string": (INPUT, TypeError, lambda: funcgrad.grad(loss)({"w": "text"}),
               ["loss", "'text'", "str", "['w']", "argnums"]),
    "object": (INPUT, TypeError, lambda: funcgrad.grad(loss)([object()]), ["object", "[0]"]),
    "string, vjp": (INPUT, TypeError, lambda: funcgrad.vjp(loss, 1.0, {"w": "text"}),
                    ["loss", "'text'", "str", "['w']"]),
    "string, second argument": (INPUT, TypeError, lambda: funcgrad.grad(loss, 1)(1.0, {"w": "t"}),
                                ["'t'", "[1]['w']"]),
    "argnums too large": (ARGNUMS, ValueError, lambda: funcgrad.grad(loss, 2)(1.0, 2.0),
                          ["loss", "argnums=2", "2 positional"]),
    "argnums too small": (ARGNUMS, ValueError, lambda: funcgrad.grad(loss, (0, -3))(1.0, 2.0),
                          ["(0, -3)", "2 positional"]),
    "by keyword": (ARGNUMS, ValueError, lambda: funcgrad.grad(loss)(x=1.0),
                   ["argnums=0", "0 positional", "by position"]),
    "argnums twice": (ARGNUMS, ValueError, lambda: funcgrad.grad(loss, (0, -2))(1.0, 2.0),
                      ["(0, -2)", "once"]),
    "argnums text": (ARGNUMS, TypeError, lambda: funcgrad.grad(loss, "x"),
                     ["argnums", "'x'", "str", "integer"]),
    "argnums float": (ARGNUMS, TypeError, lambda: funcgrad.value_and_grad(loss, 0.0),
                      ["0.0", "float", "integer"]),
    "argnums None": (ARGNUMS, TypeError, lambda: funcgrad.jacrev(loss, None), ["None", "integer"]),
    "not callable": (INPUT, TypeError, lambda: funcgrad.grad(3.0), ["3.0", "float", "grad(f)(x)"]),
    "not callable, vjp": (INPUT, TypeError, lambda: funcgrad.vjp(X, X), ["ndarray", "function"]),
    "not callable, hessian": (INPUT, TypeError, lambda: funcgrad.hessian(None), ["NoneType"]),
    "ct structure": (CT, ValueError, lambda: pull(lambda x: (x, x), X)(X),
                     ["structure", "(*, *)", "pytree like the output"]),
    "ct structure, dict": (CT, ValueError, lambda: pull(lambda x: {"a": x}, X)({"b": X}),
                           ["structure", "'a'", "'b'"]),
    "ct shape": (CT, ValueError, lambda: pull(loss, X)(X), ["loss", "float32[3]", "float32[]"]),
    "ct broadcastable": (CT, ValueError, lambda: pull(jnp.sin, X)(X[:1]),
                         ["float32[1]", "float32[3]"]),
    "ct dtype": (CT, ValueError, lambda: pull(lambda x: [x, x], X)([X, X.astype(np.float16)]),
                 ["float16[3]", "float32[3]", "[1]"]),
    "ct complex": (CT, ValueError, lambda: pull(jnp.sin, X)(X * 1j), ["complex64", "float32[3]"]),
    "ct integer": (CT, ValueError, lambda: pull(jnp.argmax, X)(X), ["float32[3]", "float0[]"]),
    "ct text": (CT, TypeError, lambda: pull(jnp.sin, X)("text"), ["'text'", "float32[3]"]),
    "no ct": (CT, TypeError, lambda: pull(jnp.sin, X)(), ["0 arguments", "takes one"]),
    "ct for each output": (CT, TypeError, lambda: pull(lambda x: (x, x), X)(X, X),
                           ["2 arguments", "pullback((ct_0, ct_1))"]),
    "ct count": (CT, TypeError, lambda: pull(lambda x: (x, x), X)((X,)), ["structure"]),
    "hvp tangents": (CT, ValueError, lambda: funcgrad.hvp(loss, (X,), (X[:2],)),
                     ["float32[2]", "float32[3]"]),
    "op of nothing": (errors.NotAnOpError, TypeError, lambda: funcgrad.DEFAULT.override({"sin": loss}),
                      ["'sin'", "str", "jax.lax.sin_p", "jitted"]),
    "op not callable": (errors.NotAnOpError, TypeError, lambda: funcgrad.op(3), ["3", "int"]),
    "two rules": (
        errors.DuplicateRuleError, ValueError,
        lambda: funcgrad.DEFAULT.extend(funcgrad.defvjp(lax.sin_p)(wrong_count)),
        ["`sin`", "wrong_count", "test_errors.py:", "override"]),
}  # fmt: skip


def wrong_count(ct: Any, x: Any, **_: Any) -> Any:
    return ct, ct


@pytest.mark.parametrize(("kind", "base", "call", "parts"), USES.values(), ids=USES.keys())
def test_wrong_use(kind, base, call, parts):
    with pytest.raises(kind) as raised:
        call()
    check_message(raised, *parts)
    assert isinstance(raised.value, base)
    assert len(str(raised.value)) < 600


def test_op_without_backward():
    @funcgrad.op
    def no_backward(x: Any) -> Any:
        return x

    with pytest.raises(funcgrad.FuncgradError) as raised:
        funcgrad.grad(no_backward)(1.0)
    check_message(raised, "no_backward", "test_errors.py", "defvjp", "defbackward")


def test_two_backwards_for_an_op():
    @funcgrad.op
    def twice(x: Any) -> Any:
        return x

    twice.defvjp(wrong_count)
    with pytest.raises(errors.DuplicateRuleError) as raised:
        twice.defvjp(lambda ct, x, *, out: ct)
    check_message(raised, "twice", "wrong_count", "lambda")


# --- rules

CONTEXTS = {
    "eager": lambda f: f,
    "jit": jax.jit,
}


def deep(op: Any) -> Any:
    def fun(x: Any) -> Any:
        return jnp.sum(op(x) * 2)  # the op

    return fun


@pytest.mark.parametrize("inner", [False, True], ids=["bare", "in jit"])
@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())
@pytest.mark.parametrize("op", [lax.sin, jnp.sin], ids=["lax", "jnp"])
def test_op_without_rule(op, context, inner):
    entries = [e for key, e in funcgrad.DEFAULT.items() if lax.sin_p not in e.ops]
    rules = funcgrad.Rules({id(e): e for e in entries}.values())
    fun = deep(op)
    fun = jax.jit(fun) if inner else fun
    with pytest.raises(errors.MissingRuleError) as raised:
        context(funcgrad.grad(fun, rules=rules))(X)
    check_message(raised, "`sin`", line_of(deep, "# the op"), "return ct_x0", "stop_gradient")
    check_message(raised, "def sin_vjp(ct, x0, *, out", "rules=funcgrad.DEFAULT.override(")
    check_message(raised, "from jax.lax import sin_p")
    assert isinstance(raised.value, NotImplementedError)


def test_own_primitive_without_rule():
    with pytest.raises(errors.MissingRuleError) as raised:
        funcgrad.grad(deep(own_p.bind))(X)
    message = check_message(raised, "`own_op`", line_of(deep, "# the op"), "def own_op_vjp(ct, x0")
    assert f"from {__name__} import own_p" in message
    skeleton = re.search(r"    def own_op_vjp.*?\n.*?\n", message)
    assert skeleton
    rules = funcgrad.DEFAULT.override({own_p: lambda ct, x, **_: ct * np.cos(1.0)})
    ours = funcgrad.grad(deep(own_p.bind), rules=rules)(X)
    np.testing.assert_allclose(ours, 2 * np.cos(X), rtol=1e-6)


def test_op_without_rule_off_the_path_is_no_error():
    def fun(x: Any) -> Any:
        own_p.bind(x)
        return jnp.sum(x), own_p.bind(x)

    gradient, aux = funcgrad.grad(fun, has_aux=True)(X)
    assert_same(gradient, jnp.ones(3, jnp.float32))
    np.testing.assert_allclose(aux, np.sin(X))
    assert_same(
        funcgrad.grad(lambda x: jnp.sum(own_p.bind(lax.stop_gradient(x)) * x))(X), np.sin(X)
    )


WRONG = {
    "count": (lambda ct, x, y, **_: (ct,), ["1 cotangent", "2 operand"]),
    "one too many": (lambda ct, x, y, **_: (ct, ct, ct), ["3 cotangent", "2 operand"]),
    "bare": (lambda ct, x, y, **_: ct, ["1 cotangent", "2 operand"]),
    "shape": (lambda ct, x, y, **_: (ct, ct[:2]), ["operand 1", "float32[2]", "float32[3]"]),
    "scalar": (lambda ct, x, y, **_: (ct[0], ct), ["operand 0", "float32[]", "float32[3]"]),
    "dtype": (
        lambda ct, x, y, **_: (ct.astype(jnp.float16), ct), ["operand 0", "float16[3]", "float32[3]"]
    ),
    "complex": (lambda ct, x, y, **_: (ct, ct * 1j), ["operand 1", "complex64[3]", "float32[3]"]),
    "text": (lambda ct, x, y, **_: (ct, "text"), ["operand 1", "'text'", "float32[3]"]),
}  # fmt: skip


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())
@pytest.mark.parametrize(("rule", "parts"), WRONG.values(), ids=WRONG.keys())
def test_wrong_rule(rule, parts, context):
    rule.__name__ = "wrong_vjp"
    rules = funcgrad.DEFAULT.override({lax.atan2_p: rule})

    def fun(x: Any) -> Any:
        return jnp.sum(lax.atan2(x, x + 1))  # here

    for f in (fun, jax.jit(fun)):
        with pytest.raises(errors.RuleResultError) as raised:
            context(funcgrad.grad(f, rules=rules))(X)
        check_message(
            raised, "`wrong_vjp`", "test_errors.py:", "`atan2`", line_of(fun, "# here"), *parts
        )


def test_non_linear_jvp_rule():
    @jax.custom_jvp
    def crooked(x: Any) -> Any:
        return x

    crooked.defjvp(lambda x, t: (x[0], jnp.multiply(t[0], t[0])))  # crooked
    for context in (lambda f: f, jax.jit):
        with pytest.raises(errors.NonLinearJvpError) as raised:
            context(funcgrad.grad(lambda x: crooked(x)))(1.0)
        where = line_of(test_non_linear_jvp_rule, "# crooked")
        check_message(raised, "crooked", "`mul`", where, "linear", "override")
    crooked.defjvp(lambda x, t: (x[0], jnp.sin(t[0])))
    with pytest.raises(errors.NonLinearJvpError) as raised:
        funcgrad.grad(crooked)(1.0)
    check_message(raised, "crooked", "`sin`")
