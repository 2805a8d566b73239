"""Derivatives at kinks, ties and poles, by every policy and in every circumstance."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import _jax, errors, extend
from tests.rules.rows import rows
from tests.surgery.kink_values import PAGE, ROWS, TABLE, Row, table

POLICIES = ("jax", "zero", "torch", "raise")
ZERO = funcgrad.kinks("zero")
RAISE = funcgrad.kinks("raise")


@pytest.fixture(autouse=True)
def _in_double_precision():
    with jax.enable_x64(True):
        yield


def gradient(row: Row, rules: funcgrad.Rules) -> Callable[..., Any]:
    return funcgrad.grad(row.in_jax, tuple(range(len(row.args))), rules=rules)


def assert_equal(found: Any, expected: Any, what: str) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, err_msg=what)


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_values(row):
    for policy in ("jax", "zero", "torch"):
        found = gradient(row, funcgrad.kinks(policy))(*row.arrays)
        assert_equal(found, row.expected(policy), policy)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_pytorch_gives_the_values_that_are_said_to_be_its(row):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    expected = row.by_torch(torch) if row.torch_code else row.by_jax()
    assert_equal(row.torch, expected, row.torch_code or "as JAX")


@pytest.mark.parametrize("policy", ["jax", "zero", "torch"])
@pytest.mark.parametrize("batched", ["grad", "vmap(grad)", "grad(vmap)"])
def test_values_under_jit(policy, batched):
    rules = funcgrad.kinks(policy)

    def gradients(points: dict[str, Any]) -> dict[str, Any]:
        return {row.id: of(row)(*points[row.id]) for row in ROWS}

    def of(row: Row) -> Callable[..., Any]:
        if batched == "grad(vmap)":
            many = lambda *args: jnp.sum(jax.vmap(row.in_jax)(*args))
            return funcgrad.grad(many, tuple(range(len(row.args))), rules=rules)
        single = gradient(row, rules)
        return single if batched == "grad" else jax.vmap(single)

    points = {row.id: row.arrays for row in ROWS}
    if batched != "grad":
        points = jax.tree.map(lambda a: jnp.stack([a, a + 0.25]), points)
    found = jax.jit(gradients)(points)
    for row in ROWS:
        cts = found[row.id] if batched == "grad" else [ct[0] for ct in found[row.id]]
        assert_equal(cts, row.expected(policy), row.id)


def test_the_page_has_these_values():
    found = TABLE.search(PAGE.read_text())
    assert found is not None
    assert found[0] == table(ROWS), "python -m tests.surgery.kink_values writes it"


def test_jaxs_policy_changes_nothing():
    assert funcgrad.kinks("jax") is funcgrad.DEFAULT
    rules = funcgrad.DEFAULT.override({lax.sin_p: lambda ct, x, **_: 2 * ct})
    assert funcgrad.kinks("jax", rules) is rules


def test_a_policy_is_one_object():
    for policy in POLICIES:
        assert funcgrad.kinks(policy) is funcgrad.kinks(policy)


FAMILIES = ("arithmetic", "elementwise", "special", "reductions", "ordering", "windows", "indexing")


@pytest.mark.parametrize("policy", ["zero", "torch", "raise"])
@pytest.mark.parametrize("family", FAMILIES)
def test_elsewhere_the_values_are_jaxs(family, policy):
    """Random points are no kinks: there each policy gives what jax.grad gives, of every rule's row."""
    seen: set[Any] = {
        _jax.to_edtype_p,
        _jax.from_edtype_p,
    }  # their rows cannot be run but as a whole
    for _, case in (row for row in rows() if row[0] == family and row[1].smooth):
        if case.op in seen:
            continue
        seen.add(case.op)
        args = [jnp.asarray(a) for a in case.args]
        out, pullback = jax.vjp(case.fn, *args)
        cts = jax.tree.map(weights, out)
        with np.errstate(all="ignore"):
            found = funcgrad.vjp(case.fn, *args, rules=funcgrad.kinks(policy))[1](cts)
        for ct, expected in zip(found, pullback(cts), strict=True):
            if expected.dtype != jax.dtypes.float0:
                np.testing.assert_allclose(ct, expected, rtol=1e-10, atol=1e-10, err_msg=case.id)
    assert seen


def weights(y: Any) -> Any:
    if not jnp.issubdtype(y.dtype, jnp.inexact):
        return np.zeros(y.shape, jax.dtypes.float0)
    return jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype)


# --- the threads ------------------------------------------------------------------------------


def root_then_where(x):  # 347
    length = jnp.sqrt(jnp.sum(x**2, axis=1))
    return jnp.sum(jnp.where(length > 0.5, length, 1.0))


def angle(x):  # 1052
    return jnp.sum(jnp.where(jnp.array([0.0, 1.0, 0.0]) > 0.5, 0.0, jnp.arctan2(x, x)))


def distance_to_itself(x):  # 6484
    return jnp.linalg.norm(x - x)


def squared_norm(x):  # 3058, 4177, 21723
    return jnp.linalg.norm(x) ** 2


def scaled_norm(a):  # 26248
    return jnp.linalg.norm(a * jnp.zeros(2))


def unit_vector(x):  # 39792: a rotation of nothing, by an axis that is not there
    angle = jnp.linalg.norm(x)
    axis = jnp.where(angle > 0, x / angle, 0.0)
    return jnp.sum(jnp.sin(angle / 2) * axis) + jnp.cos(angle / 2)


def loss_of_length(w):  # 2377
    return (jnp.linalg.norm(0.0 * w) - 1.0) ** 2


def root_beyond_one(x):  # 5798
    return jnp.where(x < 1.0, x, jnp.sqrt(x))


def energies_of_pairs(x):  # 3407: of each pair the inverse distance, but of each with itself
    apart = jnp.sum((x[None] - x[:, None]) ** 2, axis=-1)
    others = 1 - jnp.eye(x.shape[0])
    distance = jnp.where(others, jnp.sqrt(apart), 0.0)
    return jnp.sum(jnp.where(others, 1 / distance, 0.0))


def magnitude(x):  # 37820
    return jnp.sum(jnp.abs(x))


def rectified(x):  # 37821
    return jnp.sum(jnp.maximum(x, 0.0))


POSITIONS = np.array([[1.0, 2.0, 3.0], [0.2, 4.0, 6.0]])
APART = POSITIONS[1] - POSITIONS[0]
FORCE = 2 * APART / np.linalg.norm(APART) ** 3

THREADS = [
    (root_then_where, np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]),
     np.array([[1 / 5**0.5, 2 / 5**0.5], [0.6, 0.8], [0.0, 0.0]])),
    (angle, np.array([3.0, 0.0, -5.0]), np.zeros(3)),
    (distance_to_itself, np.array([1.0, 2.0]), np.zeros(2)),
    (squared_norm, np.zeros(2), np.zeros(2)),
    (scaled_norm, np.array(1.3), np.array(0.0)),
    (unit_vector, np.zeros(3), np.zeros(3)),
    (loss_of_length, np.array(1.0), np.array(0.0)),
    (root_beyond_one, np.array(0.0), np.array(1.0)),
    (energies_of_pairs, POSITIONS, np.array([FORCE, -FORCE])),
    (magnitude, np.array([-2.0, 0.0, 3.0]), np.array([-1.0, 0.0, 1.0])),
    (rectified, np.array([-2.0, 0.0, 3.0]), np.array([0.0, 0.0, 1.0])),
]  # fmt: skip
"""What JAX's users asked about, by number; a point; and the gradient that they asked for."""


@pytest.mark.parametrize(("f", "x", "expected"), THREADS, ids=[t[0].__name__ for t in THREADS])
def test_threads_of_jaxs_users(f, x, expected):
    asked = np.asarray(jax.grad(f)(x))
    assert not np.allclose(asked, expected, equal_nan=False)  # which is why they asked
    for gradient in (funcgrad.grad(f, rules=ZERO), jax.jit(funcgrad.grad(f, rules=ZERO))):
        np.testing.assert_allclose(gradient(x), expected, rtol=1e-12)


# --- where the op stands ----------------------------------------------------------------------


def masked_root(x):
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)


def in_scan(x):
    return lax.scan(lambda c, _: (c + masked_root(x), masked_root(x)), x, None, length=3)[0]


def in_while(x):
    def step(state):
        i, y = state
        return i + 1, y + masked_root(x)

    return lax.while_loop(lambda state: state[0] < 3, step, (0, x))[1]


def in_cond(x):
    return lax.cond(x < 1, lambda x: x + masked_root(x), lambda x: x, x)


def in_checkpoint(x):
    return x + jax.checkpoint(masked_root)(x)


def in_jit(x):
    return x + jax.jit(masked_root)(x)


def in_custom_jvp(x):
    @jax.custom_jvp
    def f(x):
        return masked_root(x)

    f.defjvps(lambda t, out, x: jnp.where(x > 0, 0.5 * t / jnp.sqrt(x), 0.0))
    return x + f(x)


CIRCUMSTANCES = [in_scan, in_while, in_cond, in_checkpoint, in_jit, in_custom_jvp]


@pytest.mark.parametrize("f", CIRCUMSTANCES)
@pytest.mark.parametrize("policy", ["zero", "raise"])
def test_a_branch_that_was_not_selected_adds_nothing(f, policy):
    rules = funcgrad.kinks(policy)
    gradient = funcgrad.grad(f, rules=rules)
    assert float(gradient(0.0)) == 1.0
    assert float(jax.jit(gradient)(0.0)) == 1.0
    np.testing.assert_array_equal(jax.vmap(gradient)(jnp.zeros(2)), 1.0)
    at_four = float(gradient(4.0))
    assert at_four == pytest.approx(float(finite_difference(f, 4.0)), rel=1e-6)


def finite_difference(f, x, h=1e-5):
    return (f(x + h) - f(x - h)) / (2 * h)


def kinks_in_scan(x):
    return lax.scan(lambda c, _: (c + jnp.abs(x) + jnp.maximum(x, 0.0), None), 0.0, None, 3)[0]


def kinks_in_while(x):
    step = lambda s: (s[0] + 1, s[1] + jnp.abs(x) + jnp.maximum(x, 0.0))
    return lax.while_loop(lambda s: s[0] < 3, step, (0, 0.0 * x))[1]


def kinks_in_cond(x):
    return lax.cond(x < 1, lambda x: jnp.abs(x) + jnp.maximum(x, 0.0), lambda x: x, x)


def kinks_in_checkpoint(x):
    return jax.checkpoint(lambda x: jnp.abs(x) + jnp.maximum(x, 0.0))(x)


KINKS_IN = [kinks_in_scan, kinks_in_while, kinks_in_cond, kinks_in_checkpoint]


@pytest.mark.parametrize("f", KINKS_IN)
def test_at_a_kink_the_derivative_is_0(f):
    gradient = funcgrad.grad(f, rules=ZERO)
    assert float(gradient(0.0)) == 0.0
    assert float(jax.jit(gradient)(0.0)) == 0.0
    np.testing.assert_array_equal(jax.vmap(gradient)(jnp.zeros(2)), 0.0)


def test_second_derivatives_are_finite():
    hessian = funcgrad.hessian(lambda x: jnp.linalg.norm(x) + jnp.sum(x**3), rules=ZERO)
    np.testing.assert_array_equal(hessian(jnp.zeros(2)), np.zeros((2, 2)))
    away = jnp.array([3.0, 4.0])
    expected = jax.hessian(lambda x: jnp.linalg.norm(x) + jnp.sum(x**3))(away)
    np.testing.assert_allclose(hessian(away), expected, rtol=1e-12)


def test_of_two_equal_operands_each_has_half_if_both_are_differentiated():
    maximum = lambda x, y: jnp.sum(jnp.maximum(x, y))
    one, both = (funcgrad.grad(maximum, i, rules=ZERO) for i in (0, (0, 1)))
    assert float(one(1.0, 1.0)) == 0.0
    assert list(map(float, both(1.0, 1.0))) == [0.5, 0.5]
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])  # a smooth function: its diagonal has the slope 1
    symmetric = lambda x: jnp.trace(jnp.maximum(x, x.T))
    np.testing.assert_array_equal(funcgrad.grad(symmetric, rules=ZERO)(x), np.eye(2))


def test_elements_of_a_row_that_is_masked_may_be_nan():
    x = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])
    mask = jnp.array([True, False])
    f = lambda x: jnp.sum(jnp.where(mask, jnp.max(jnp.exp(x) * x, axis=1), 0.0))
    expected = np.array([[0.0, 3 * np.exp(2.0)], [0.0, 0.0]])
    np.testing.assert_allclose(funcgrad.grad(f, rules=ZERO)(x), expected, rtol=1e-12)


def test_a_nan_that_was_selected_stays():
    assert np.isnan(funcgrad.grad(jnp.sqrt, rules=ZERO)(-1.0))
    assert np.isnan(funcgrad.grad(lambda x: x * x, rules=ZERO)(jnp.nan))


@pytest.mark.parametrize("policy", ["zero", "torch", "raise"])
def test_functions_that_are_treated_as_a_whole_broadcast_and_do_not_overflow(policy):
    rules = funcgrad.kinks(policy)
    for f in (jnp.hypot, jnp.logaddexp, jax.nn.celu):
        args = jnp.array([[1.0], [-2.0]]), jnp.array([0.5, 3.0, 4.0])
        total = lambda *args, f=f: jnp.sum(f(*args))
        found = funcgrad.grad(total, (0, 1), rules=rules)(*args)
        assert_equal(found, jax.grad(total, (0, 1))(*args), f.__name__)
    assert_equal(
        funcgrad.grad(jnp.hypot, (0, 1), rules=rules)(3e300, 4e300), (0.6, 0.8), "no overflow"
    )


def test_pytorchs_clip_broadcasts():
    clip = lambda x, low: jnp.sum(jnp.clip(x, low, 1))
    x, low = jnp.array([0.0, 0.5, 1.0, 3.0]), jnp.zeros((2, 1))
    found = funcgrad.grad(clip, (0, 1), rules=funcgrad.kinks("torch"))(x, low)
    assert_equal(found, (np.array([2.0, 2.0, 2.0, 0.0]), np.zeros((2, 1))), "measured with PyTorch")


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_raise(row):
    gradient_of_row = gradient(row, RAISE)
    if not row.kink:
        assert_equal(gradient_of_row(*row.arrays), row.zero, "no kink")
        return
    with pytest.raises(errors.KinkError, match=r"used at (\S*kink_values\.py|<string>)"):
        gradient_of_row(*row.arrays)


def place_of(f: Callable[..., Any], text: str) -> str:
    """``file:line`` of a line in this file."""
    with open(__file__, encoding="utf-8") as source:
        numbers = [i for i, line in enumerate(source, start=1) if text in line]
    return f"test_kinks.py:{numbers[0]}"


def test_the_error_names_op_operand_and_line():
    def loss(x):
        return jnp.sum(jnp.sqrt(x))  # the root of the trouble

    with pytest.raises(errors.KinkError) as caught:
        funcgrad.grad(loss, rules=RAISE)(jnp.array([1.0, 0.0]))
    message = str(caught.value)
    assert "`sqrt`" in message
    assert "x = 0" in message
    assert place_of(loss, "# the root of the trouble") in message


@pytest.mark.parametrize("f", KINKS_IN)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_errors_in_loops_and_under_jit(f, transform):
    gradient = transform(funcgrad.grad(f, rules=RAISE))
    x = jnp.zeros(2) if transform is jax.vmap else 0.0
    with pytest.raises(
        (errors.KinkError, jax.errors.JaxRuntimeError), match=r"KinkError|kinks"
    ) as e:
        jax.block_until_ready(gradient(x))
    assert "`max`" in str(e.value) or "`abs`" in str(e.value)
    assert re.search(r"used at \S*test_kinks\.py:\d+", str(e.value))
    assert np.isfinite(gradient(x + 0.5)).all()


def test_no_error_where_the_kink_is_not_met():
    loss = lambda w: jnp.sum(jax.nn.relu(w) + jax.nn.log_softmax(w) * jnp.abs(w))
    w = jnp.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(funcgrad.grad(loss, rules=RAISE)(w), jax.grad(loss)(w), rtol=1e-12)


def test_an_unknown_policy():
    with pytest.raises(errors.NotARuleError, match="'none'"):
        funcgrad.kinks("none")  # type: ignore[arg-type]
    with pytest.raises(errors.NotARuleError):
        funcgrad.kinks("zero", {})  # type: ignore[arg-type]


# --- together with a user's own rules ---------------------------------------------------------


def test_a_users_rules_stay():
    own = funcgrad.DEFAULT.override({lax.sin_p: lambda ct, x, **_: 100 * ct})
    for policy in ("zero", "torch", "raise"):
        rules = funcgrad.kinks(policy, own)
        assert float(funcgrad.grad(jnp.sin, rules=rules)(1.0)) == 100.0
        with pytest.warns(errors.UnusedOverrideWarning, match="`sin`"):
            funcgrad.grad(jnp.cos, rules=rules)(1.0)


@pytest.mark.parametrize("policy", ["zero", "torch", "raise"])
def test_an_op_that_is_overridden_keeps_its_rule(policy):
    own = funcgrad.DEFAULT.override({lax.abs_p: lambda ct, x, **_: 5 * ct})
    assert float(funcgrad.grad(jnp.abs, rules=funcgrad.kinks(policy, own))(0.0)) == 5.0


def test_an_override_comes_after_the_policy():
    rules = ZERO.override({lax.sqrt_p: lambda ct, x, **_: 7 * ct})
    assert float(funcgrad.grad(jnp.sqrt, rules=rules)(0.0)) == 7.0


def test_tapes_show_the_same_ops():
    f = lambda x: jnp.sum(jnp.maximum(jnp.sqrt(x), 0.5))
    ops = [
        [str(node.op) for node in extend.walk_nodes(extend.tape_of(f, 1.0, rules=rules))]
        for rules in (funcgrad.DEFAULT, ZERO)
    ]
    assert ops[0] == ops[1]
