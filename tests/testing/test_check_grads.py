"""The checker passes what is right, sees every kind of mistake, and says which."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from funcgrad.testing import MODES, GradientError, check_grads
from funcgrad.testing.numerical import bend, derivative

X = np.array([0.3, -1.2, 2.0])
FAST = ("types", "jax", "dot", "numerical")


def custom(fun: Any, bwd: Any) -> Any:
    """A jax.custom_vjp whose backward function is given operands and the cotangent."""
    with_rule = jax.custom_vjp(fun)
    with_rule.defvjp(lambda *xs: (fun(*xs), xs), lambda xs, ct: bwd(ct, *xs))
    return with_rule


def failing(f: Any, *args: Any, **options: Any) -> GradientError:
    with pytest.raises(GradientError) as caught:
        check_grads(f, args, **options)
    return caught.value


def statuses(report: Any, mode: str) -> list[str]:
    return [row.status for row in report[mode]]


# --- what is right

RIGHT: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "matrix": (lambda x, y: jnp.sin(x) @ y, (np.ones((2, 3)), X)),
    "pytrees": (
        lambda p, x: {"y": jnp.tanh(x * p["w"]) + p["b"], "n": jnp.sum(x)},
        ({"w": X, "b": np.float64(2)}, X),
    ),
    "complex": (lambda z: z * jnp.conj(z) + 1j * z**2, (X + 1j * X[::-1],)),
    "complex-to-real": (lambda z: jnp.abs(jnp.exp(z)), (X + 0.5j,)),
    "real-to-complex": (lambda x: jnp.exp(1j * x), (X,)),
    "large": (lambda x: 1e20 * jnp.linalg.inv(x), (1e8 * (np.eye(3) + np.outer(X, X)),)),
    "small": (lambda x: 1e-20 * jnp.exp(1e5 * x), (1e-5 * X,)),
    "near-a-pole": (lambda x: jnp.log(x), (np.array([1e-9, 1.0, 1e6]),)),
    "cancelling": (lambda x: jnp.sum(jax.nn.softmax(x)) - 1, (X,)),
    "far-offset": (lambda x: 1e9 + jnp.sin(x), (X,)),
    "constant": (lambda x: 0 * x + 1, (X,)),
    "empty": (lambda x, y: jnp.sum(x) * y, (np.ones((0, 3)), X)),
    "more-outputs-than-arguments": (
        lambda x: jax.lax.scan(lambda a, b: (jnp.tanh(a + b), a * b), x[0], x),
        (X,),
    ),
    "scalar": (lambda x: x**3, (2.0,)),
    "with-an-integer": (lambda x, n: x**n, (X, 3)),
    "with-a-key": (lambda x, key: x * jax.random.normal(key, (3,)), (X, jax.random.key(0))),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_gradients_pass(name):
    f, args = RIGHT[name]
    report = check_grads(f, args, order=1)
    assert statuses(report, "jax") == ["passed"]
    assert statuses(report, "dot") == ["passed"]
    assert statuses(report, "numerical") == ["passed"], report


@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.float16, np.float64, np.complex64]
)
def test_every_check_runs_in_every_dtype(dtype):
    report = check_grads(
        lambda x, y: (jnp.sin(x) * y, jnp.sum(y)), (X.astype(dtype), (X[::-1] + 0).astype(dtype))
    )
    assert {row.status for row in report} == {"passed"}
    assert [row.mode for row in report if row.mode != "second"] == [
        m for m in MODES if m != "second"
    ]
    assert len(report["second"]) == 3
    wide = "complex128" if dtype is np.complex64 else "float64"
    assert report["numerical"][0].detail.startswith(wide)


def test_third_order():
    report = check_grads(lambda x: jnp.sin(x) * x, (X[:2],), order=3, modes=["second"])
    assert [row.name for row in report["second"]][3:] == [
        "second (order 3) by jax",
        "second (order 3) numerical",
        "second (order 3) by jax over ours",
    ]


def test_what_did_not_run_says_why():
    def power(x, n):
        return lax.fori_loop(0, n, lambda _, y: y * x, 1.0)

    report = check_grads(lambda x: power(x, 3) if x > 0 else x, (2.0,), order=1)
    reasons = {row.name: row.detail for row in report if row.status == "not run"}
    assert set(reasons) == {"jit", "vmap", "operands", "outputs", "second"}
    assert "TracerBoolConversionError" in reasons["jit"]
    assert reasons["operands"] == "one operand"
    assert reasons["second"] == "order=1"

    report = check_grads(jax.jit(power), (2.0, 3), order=1)
    (row,) = report["jax"]
    assert row.status == "not run"
    assert "JAX does not differentiate it" in row.detail
    assert statuses(report, "dot") == statuses(report, "numerical") == ["passed"]

    report = check_grads(jnp.sin, (X,), modes="jit")
    assert {row.detail for row in report if row.mode != "jit"} == {"not asked for"}
    table = str(report).split("\n")
    assert table[1].split() == ["check", "status", "error/allowed"]
    assert len(table) == 2 + len(MODES)


def test_kinks_are_left_out_and_named():
    report = check_grads(lambda x: jax.nn.relu(x) * 2, (np.array([0.0, 1, -1]),), modes=FAST)
    first, second = report["numerical"]
    assert first.status == "passed"
    assert second.status == "not run"
    assert second.detail.startswith("kink at index (0,)")

    report = check_grads(jnp.abs, (np.zeros((4, 5)),), modes=FAST)
    assert statuses(report, "numerical") == ["not run"]
    report = check_grads(lambda x: x**1.5, (np.array([0.0, 2]),), modes=["numerical"])
    assert [row.status for row in report["numerical"]] == ["passed", "not run"]
    assert "one side only at index (0,)" in report["numerical"][1].detail
    report = check_grads(jnp.floor, (np.array([1.0, 1.5]),), modes=["numerical"])
    assert [row.status for row in report["numerical"]] == ["passed", "not run"]


@pytest.mark.parametrize("f", [jnp.sqrt, jnp.cbrt, jnp.arccosh])
def test_an_infinite_derivative_is_left_out(f):
    at = np.array([1.0 if f is jnp.arccosh else 0.0, 2.0])
    report = check_grads(f, (at,), modes=("numerical", "second"))
    assert [row.status for row in report["numerical"]] == ["passed", "not run"]
    assert report["numerical"][1].detail.startswith("infinite gradient at index (0,)")
    assert statuses(report, "second") == ["passed", "not run", "passed"]
    assert "not finite here" in report["second"][1].detail

    (row,) = check_grads(f, (np.full(20, at[0]),), modes=["numerical"])["numerical"]
    assert row.status == "not run"
    assert "(7,) and 12 more" in row.detail


NAN = {
    "where": lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0),
    "norm": lambda x: jnp.linalg.norm(x[:1]) ** 2 + x[1],
    "quotient": lambda x: jnp.where(x == 0, 1.0, jnp.sin(x) / x),
}


@pytest.mark.parametrize("name", NAN)
def test_a_gradient_that_is_nan_where_there_is_one(name):
    """jax.grad is NaN as well; differences are finite, and know better."""
    error = failing(NAN[name], np.array([-1.0 if name == "where" else 0.0, 2.0]), order=1)
    assert statuses(error.report, "jax") == ["passed"]
    assert error.check.name == "numerical argument [0]"
    assert "at index (0,): nan, and 0.0 by differences" in str(error)
    assert "a jnp.where does not take" in str(error)


def hidden_root(x: Any) -> Any:
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)  # where it begins


BEGINNINGS = {
    "plain": hidden_root,
    "jit": jax.jit(lambda x: hidden_root(jnp.sin(x))),
    "vmap": jax.vmap(hidden_root),
    "scan": lambda x: lax.scan(lambda c, _: (2 * hidden_root(c), None), x, None, length=2)[0],
    "cond": lambda x: lax.cond(jnp.sum(x) > -9, hidden_root, jnp.sin, x),
    "long scan": lambda x: lax.scan(lambda c, _: (hidden_root(c), None), x, None, length=3000)[0],
    "while": lambda x: lax.while_loop(
        lambda c: c[0] < 2, lambda c: (c[0] + 1, hidden_root(c[1])), (0, x)
    )[1],
    "checkpoint": jax.checkpoint(hidden_root),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_where_a_nan_begins(name):
    error = failing(BEGINNINGS[name], np.array([-1.0, 2.0]), modes=("numerical",))
    lines = Path(__file__).read_text().splitlines()
    line = next(i for i, text in enumerate(lines, 1) if text.endswith("# where it begins"))
    assert f"; it begins at `sqrt` ({__file__}:{line}" in str(error)


def test_a_second_order_that_jax_gets_wrong_too():
    error = failing(lambda z: jnp.abs(z) ** 2, np.array([0j, 1 + 1j]))
    assert error.check.name == "second numerical argument [0]"
    assert "JAX agrees with funcgrad" in str(error)


def test_a_function_that_rounds_is_not_judged_by_differences():
    def rounding(x):
        return jnp.tanh(x.astype(jnp.bfloat16)).astype(x.dtype)

    (row,) = check_grads(rounding, (X,), modes=FAST)["numerical"]
    assert row.status == "not run"
    assert "bfloat16, to which the function rounds" in row.detail


def test_a_function_that_reduces_precision():
    """JAX rounds the tangent as well, so that its forward mode is only so precise."""
    f = lambda x: lax.reduce_precision(jnp.sin(x), exponent_bits=8, mantissa_bits=9)
    report = check_grads(f, (X,), modes=("jax", "dot", "numerical"))
    assert statuses(report, "dot") == ["passed"]
    assert report["dot"][0].detail == "9 bits"
    assert statuses(report, "numerical") == ["not run"]


def scaled_by_branch(x: Any, scale: Any) -> Any:
    return x if scale == "none" else scale(x) * x


SCALED = jax.custom_vjp(scaled_by_branch, nondiff_argnums=(1,))
SCALED.defvjp(
    lambda x, scale: (scaled_by_branch(x, scale), x),
    lambda scale, x, ct: jax.vjp(lambda x: scaled_by_branch(x, scale), x)[1](ct),
)


@pytest.mark.parametrize(
    ("f", "others"),
    [
        (scaled_by_branch, ("none",)),
        (scaled_by_branch, (jnp.sin,)),
        (lambda x, options: scaled_by_branch(x, options["by"]), ({"by": jnp.sin, "n": None},)),
        (jax.jit(lambda x, n: sum([x] * n), static_argnums=1), (3,)),
        (SCALED, (jnp.sin,)),
    ],
    ids=["string", "function", "in a pytree", "static", "nondiff_argnums"],
)
def test_what_is_no_array_is_passed_on_as_it_is(f, others):
    report = check_grads(f, (X, *others), order=1)
    assert {row.status for row in report if row.mode in (*FAST, "linear", "jit")} == {"passed"}
    assert report["types"][0].detail == "1 of 2 operands have no gradient"


# --- what is wrong


def test_a_scaled_cotangent():
    f = custom(lambda x, y: x * y, lambda ct, x, y: (ct * y, 1.01 * ct * x))
    error = failing(f, X, X + 4, order=1)
    assert [row.name for row in error.report.of_status("FAILED")] == [
        "jax", "dot argument [1]", "numerical argument [1]",
    ]  # fmt: skip
    ct = error.cotangent
    ct = np.asarray(ct)
    found = 1.01 * ct * X
    message = str(error)
    assert "jax: the cotangent of argument [1] is wrong at index" in message
    assert any(f"({i},): {found[i].item()!r}, and" in message for i in range(3))
    assert all(f"{value:.10f}"[:10] in message for value in ct)


def test_the_cotangent_in_the_error_shows_the_failure():
    f = custom(lambda x: {"a": x * 2, "n": jnp.arange(2)}, lambda ct, x: (ct["a"] * 2.1,))
    error = failing(f, X, modes=["jax"])
    assert error.cotangent["n"].dtype == jax.dtypes.float0
    with jax.enable_x64(True):
        (found,) = funcgrad.vjp(f, X)[1](error.cotangent)
        np.testing.assert_allclose(found, 2.1 * error.cotangent["a"], rtol=1e-12)


def test_one_wrong_element_of_many_is_found():
    mask = np.ones((20, 30))
    mask[7, 11] = 0
    for f in (
        custom(lambda x: x**2, lambda ct, x: (ct * 2 * x * mask,)),
        lambda y: custom(lambda z: jnp.sum(z**2), lambda ct, z: (ct * 2 * z * mask,))(y),
    ):
        x = np.random.default_rng(0).standard_normal((20, 30))
        error = failing(f, x, modes=["dot", "numerical"])
        assert re.search(r"\(7, 11\): -?0.0, and", str(error))


def test_only_differences_know():
    """JAX cannot differentiate the function, and its gradient is by a rule."""

    @funcgrad.op
    def sine(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    @sine.defvjp
    def sine_vjp(ct, x, *, out):
        return -ct * jnp.cos(x)

    error = failing(lambda x: sine(x) * 2, X, modes=("dot", "numerical", "linear"))
    assert statuses(error.report, "dot") == ["not run"]
    assert [row.mode for row in error.report.of_status("FAILED")] == ["numerical"]


def test_wrong_shape_and_dtype():
    shape = custom(lambda x, y: x * y, lambda ct, x, y: (ct * y, jnp.sum(ct * x)))
    dtype = funcgrad.DEFAULT.override({lax.sin_p: lambda ct, x, **_: ct.astype(jnp.float32)})
    count = funcgrad.DEFAULT.override({lax.sin_p: lambda ct, x, **_: (ct, ct)})
    for f, args, rules in [(shape, (X, X), None), (jnp.sin, (X,), dtype), (jnp.sin, (X,), count)]:
        error = failing(f, *args, **({"rules": rules} if rules else {}))
        assert error.check.name == "types"
        assert error.__cause__ is not None
        assert {row.status for row in error.report["jit"]} == {"not run"}
        assert error.report["jit"][0].detail == "an earlier check failed"


def test_another_value_under_differentiation():
    f = jax.custom_vjp(jnp.sin)
    f.defvjp(lambda x: (jnp.sin(x) + 1, x), lambda x, ct: (ct * jnp.cos(x),))
    error = failing(f, X, modes=("value", "jax"))
    assert error.check.name == "value"
    assert "under differentiation output 0" in str(error)


def test_not_linear():
    f = custom(jnp.sin, lambda ct, x: (jnp.clip(ct, -0.1, 0.1),))
    error = failing(f, X, modes=("linear",))
    assert "linearity in the cotangent" in str(error)
    assert "clips" in str(error)


def test_different_under_jit():
    def bwd(ct, x):
        return (ct if isinstance(ct, jax.core.Tracer) else 2 * ct,)

    error = failing(custom(lambda x: 2 * x, bwd), X, modes=("jax", "jit"))
    assert [row.name for row in error.report.of_status("FAILED")] == ["jit"]
    assert "by the same without jit" in str(error)


def test_different_under_vmap():
    @jax.custom_batching.custom_vmap
    def twice(ct):
        return 2 * ct

    @twice.def_vmap
    def rule(size, batched, ct):
        return 2 * ct[::-1], True

    error = failing(custom(lambda x: 2 * x, lambda ct, x: (twice(ct),)), X, modes=("jax", "vmap"))
    assert [row.name for row in error.report.of_status("FAILED")] == ["vmap"]


def test_different_for_some_operands():
    f = jax.custom_vjp(lambda x, y: x * y)
    f.defvjp(
        lambda x, y: (x.value * y.value, (x.value, y.value, 1 if y.perturbed else 3)),
        lambda saved, ct: (ct * saved[1] * saved[2], ct * saved[0]),
        symbolic_zeros=True,
    )
    error = failing(lambda x, y: f(x, y), X, X, modes=("jax", "operands"))
    assert error.check.name == "operands"
    assert "differentiating only argument [0]: the cotangent of argument [0]" in str(error)


def test_different_for_single_outputs():
    @funcgrad.op
    def both(x):
        return jnp.sin(x), jnp.cos(x)

    @both.defvjp
    def both_vjp(ct, x, *, out):
        a, b = ct
        if b is None:
            return a * out[0]
        return (0 if a is None else a * out[1]) - b * out[0]

    error = failing(both, X, modes=("jax", "outputs"))
    assert error.check.name == "outputs"


def test_wrong_second_order():
    @funcgrad.op
    def cube(x):
        return x**3

    @cube.defvjp
    def cube_vjp(ct, x, *, out):
        return ct * 3 * lax.stop_gradient(x) ** 2

    assert check_grads(cube, (X,), order=1)
    error = failing(cube, X)
    assert [row.name for row in error.report.of_status("FAILED")] == [
        "second by jax", "second numerical argument [0]",
    ]  # fmt: skip


def test_a_written_argument():
    x = X.copy()

    def careless(y):
        x[1] += 1
        return y

    error = failing(careless, x, modes=("untouched",))
    assert "argument [0] was written to at index (1,)" in str(error)


def test_a_donated_argument():
    error = failing(jax.jit(lambda x: 2 * x, donate_argnums=0), jnp.asarray(X, jnp.float32))
    assert "argument [0] was donated, and is deleted" in str(error)
    assert {row.status for row in error.report if row.mode != "untouched"} == {"not run"}


def test_a_random_function_has_no_gradient():
    rng = np.random.default_rng(0)
    error = failing(lambda x: x * rng.standard_normal(), X)
    assert "two calls with the same arguments" in str(error)
    assert [row.name for row in error.report.of_status("FAILED")] == ["value"]
    assert error.report["jax"][0].detail == "an earlier check failed"


# --- what is meant to be another gradient


def test_straight_through_is_allowed_when_it_says_so():
    @funcgrad.op
    def rounded(x):
        return jnp.round(x)

    rounded.defvjp(lambda ct, x, *, out: ct)
    error = failing(lambda x: rounded(x) * 2, X, order=1)
    assert "JAX agrees with funcgrad" in str(error)
    assert "derivative=False" in str(error)
    report = check_grads(rounded, (X,), derivative=False)
    assert {
        row.detail for mode in ("jax", "dot", "numerical", "second") for row in report[mode]
    } == {"the gradient is not meant to be the derivative"}


def test_an_override_is_checked_for_what_must_hold_of_any_rule():
    leaky = funcgrad.DEFAULT.override(
        {jax.nn.relu: lambda ct, x, **_: jnp.where(x > 0, ct, 0.1 * ct)}
    )
    report = check_grads(jax.nn.relu, (X,), rules=leaky)
    assert report["jax"][0].status == "not run"
    assert "override relu" in report["jax"][0].detail
    assert statuses(report, "linear") == statuses(report, "jit") == ["passed"]
    with pytest.warns(funcgrad.errors.UnusedOverrideWarning, match="relu"):
        assert statuses(check_grads(jnp.sin, (X,), rules=leaky), "jax") == ["passed"]


# --- bad calls


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda: check_grads(jnp.sin, (np.arange(3),)),
            errors.InputError,
            "no argument has one (argument [0]: int",
        ),
        (lambda: check_grads(jnp.sin, ()), errors.InputError, "there are none"),
        (
            lambda: check_grads(jnp.sin, (np.array([1.0, np.nan]),)),
            errors.InputError,
            "nan at index (1,)",
        ),
        (
            lambda: check_grads(lambda p: p["a"], ({"a": np.inf},)),
            errors.InputError,
            "argument [0]['a'] of",
        ),
        (lambda: check_grads(jnp.log, (np.array([-1.0]),)), errors.InputError, "output is nan"),
        (lambda: check_grads(lambda x: x > 0, (X,)), errors.OutputError, "returns bool[3]"),
        (lambda: check_grads(lambda x: "no", (X,)), errors.OutputError, "no array"),
        (lambda: check_grads(3, (X,)), errors.InputError, "function to differentiate"),
        (lambda: check_grads(jnp.sin, X), errors.InputError, "check_grads(f, (x,))"),
        (lambda: check_grads(lambda x: x, ("text",)), errors.InputError, "'text' of type str"),
        (lambda: check_grads(jnp.sin, (X,), order=0), errors.InputError, "order 0"),
        (lambda: check_grads(jnp.sin, (X,), modes=["fast"]), errors.InputError, "['fast']"),
        (
            lambda: check_grads(jnp.sin, (X,), modes=[]),
            errors.InputError,
            "The modes are types, value",
        ),
        (lambda: check_grads(jnp.sin, (X,), rtol=-1), errors.InputError, "rtol=-1"),
        (
            lambda: check_grads(lambda x: jax.pure_callback(np.sin, x, x), (X,)),
            errors.MissingRuleError,
            "pure_callback",
        ),
    ],
)
def test_bad_calls(call, kind, words):
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)


# --- differences


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize(
    ("f", "slope"),
    [
        (np.sin, np.cos),
        (np.exp, np.exp),
        (lambda t: np.log(1 + t), lambda t: 1 / (1 + t)),
        (lambda t: 1e6 + np.tanh(50 * t), lambda t: 50 / np.cosh(50 * t) ** 2),
        (lambda t: np.abs(t + 0.02) ** 3, lambda t: 3 * (t + 0.02) ** 2 * np.sign(t + 0.02)),
    ],
)
def test_the_error_estimate_holds(f, slope, scale):
    ct = [np.array(scale)]
    found = derivative(lambda t: [np.asarray(f(t))], ct, 2.2e-16, abs(float(f(0.0))) * scale)
    assert found is not None
    expected = scale * slope(0.0)
    assert abs(found.value - expected) <= 10 * found.error
    assert found.error <= 1e-6 * abs(expected)


@pytest.mark.parametrize(
    ("f", "kink"),
    [
        (np.abs, True),
        (lambda t: np.maximum(t, 0.0), True),
        (np.floor, True),
        (lambda t: np.sqrt(np.abs(t)), True),
        (np.sin, False),
        (lambda t: t**2, False),
        (lambda t: np.abs(t - 1e-3), False),
        (lambda t: 1e3 * np.cos(40 * t), False),
    ],
)
def test_kinks(f, kink):
    ct = [np.array(1.0)]
    line = lambda t: [np.asarray(f(t), float)]
    assert (bend(line, ct, 2.2e-16, abs(float(f(0.0))), 1.0, 1e-3) > 0) == kink


def test_a_search_by_comparisons_is_found_and_named():
    def root(a):  # of x^2 = a, by bisection
        def halve(ends):
            low, high = ends
            middle = (low + high) / 2
            below = middle**2 < a
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        start = jnp.zeros_like(a), a
        return lax.while_loop(lambda ends: ends[1] - ends[0] > 1e-12, halve, start)[0]

    with pytest.raises(funcgrad.testing.GradientError, match="bisection") as failure:
        check_grads(root, (np.float64(3.0),), 1)
    assert failure.value.report["numerical"][0].status == "FAILED"
