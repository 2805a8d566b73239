"""Where a NaN or an infinity begins: faults that are planted at a known op, line, step and index."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from funcgrad.inspect import NonFinite, nonfinite

ONES = jnp.ones(4)


def at(x: Any, index: Any, value: float) -> Any:
    return jnp.asarray(x).at[index].set(value)


def line_of(fun: Any) -> str:
    """``file:line`` of the line in `fun` that ends with ``# fault``."""
    lines, first = inspect.getsourcelines(inspect.unwrap(fun))
    return f"test_nonfinite.py:{next(first + i for i, s in enumerate(lines) if '# fault' in s)}:"


# --- functions with a fault planted in them: forward the logarithm of 0, backward the root of 0


def log(x: Any) -> Any:
    return jnp.log(x)  # fault


def root(x: Any) -> Any:
    return jnp.sqrt(x)  # fault


def masked_root(x: Any) -> Any:
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)  # fault


def scanned(op: Callable[..., Any], reverse: bool = False) -> Callable[..., Any]:
    """Over 20 steps, in which `op` meets 0 in step 7."""

    def step(total: Any, i: Any) -> Any:
        return total + op(jnp.abs(i - 7.0) * total / total), total

    return lambda x: lax.scan(step, x, jnp.arange(20.0), reverse=reverse)[0]


def looped(op: Callable[..., Any]) -> Callable[..., Any]:
    """Over 10 steps of a number that is known at run time, in which `op` meets 0 in step 5."""

    def step(state: Any) -> Any:
        i, total = state
        return i + 1, total + op(jnp.abs(i - 5.0) * total / total)

    return lambda x: lax.while_loop(lambda s: s[0] < 10 * x, step, (0.0, x))[1]


def switched(op: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: lax.switch(1, [jnp.sin, lambda x: op(x) + 1, jnp.cos], x).sum()


def scoped(op: Callable[..., Any]) -> Callable[..., Any]:
    def scoped(x: Any) -> Any:
        with jax.named_scope("encoder"), jax.named_scope("layer_3"):
            return op(x).sum()

    return scoped


@dataclass
class Case:
    """A function around a faulty op, the argument, and where the fault is."""

    around: Callable[[Callable[..., Any]], Callable[..., Any]]
    x: Any
    index: tuple[int, ...] = ()
    steps: tuple[tuple[str, int, int | None], ...] = ()
    scope: str = ""
    slow: bool = field(default=False)


CASES = {
    "plain": Case(lambda op: lambda x: op(x).sum(), at(ONES, 2, 0.0), (2,)),
    "jit": Case(lambda op: jax.jit(lambda x: jax.jit(op)(x * 2).sum()), at(ONES, 1, 0.0), (1,)),
    "scan": Case(scanned, 1.0, (), (("scan", 7, 20),)),
    "reverse scan": Case(lambda op: scanned(op, True), 1.0, (), (("scan", 7, 20),)),
    "jit of scan": Case(lambda op: jax.jit(scanned(op)), 1.0, (), (("scan", 7, 20),)),
    "while": Case(looped, 1.0, (), (("while loop", 5, None),)),
    "vmap": Case(
        lambda op: lambda x: jax.vmap(op)(x).sum(), at(jnp.ones((5, 2)), (3, 1), 0.0), (3, 1)
    ),
    "vmap of scan": Case(
        lambda op: lambda x: jax.vmap(scanned(op))(x).sum(), jnp.ones(5), (0,), (("scan", 7, 20),)
    ),
    "cond": Case(switched, at(ONES, 3, 0.0), (3,)),
    "remat": Case(lambda op: lambda x: jax.checkpoint(op)(x).sum(), at(ONES, 0, 0.0), (0,)),
    "scope": Case(scoped, at(ONES, 0, 0.0), (0,), (), "encoder/layer_3"),
}


def check_place(found: NonFinite, case: Case, op: Callable[..., Any]) -> None:
    assert found
    assert line_of(op) in str(found.where)
    assert found.index == case.index
    assert tuple((s.loop, s.index, s.length) for s in found.steps) == case.steps
    assert found.scope == case.scope


@pytest.mark.parametrize("name", CASES)
def test_a_fault_on_the_way_forward(name):
    case = CASES[name]
    found = nonfinite(case.around(log), case.x)
    check_place(found, case, log)
    assert (found.op, found.kind, found.backward) == ("log", "inf", False)
    assert found.result is not None
    assert found.result.there == -math.inf
    assert found.operands[0].there == 0.0
    assert found.reaches[0] == "the value"
    assert "logarithm of 0" in str(found.suggestion)


BACKWARD = [(root, name) for name in CASES if name != "while"]
BACKWARD += [(masked_root, name) for name in ("plain", "jit", "remat")]


@pytest.mark.parametrize(("op", "name"), BACKWARD)
def test_a_fault_on_the_way_back(op, name):
    case = CASES[name]
    found = nonfinite(case.around(op), case.x)
    check_place(found, case, op)
    assert (found.pulls_back, found.kind, found.backward) == ("sqrt", "inf", True)
    assert found.op == "div"
    assert "sqrt_vjp" in str(found.rule)
    assert found.operands[1].there == 0.0
    assert found.reaches == ("the gradient by x",)
    assert "sqrt at 0" in str(found.suggestion)
    assert ("does not take" in str(found.suggestion)) == (op is masked_root or "scan" in name)
    assert "kinks" in str(found.suggestion)
    assert np.isfinite(funcgrad.grad(case.around(op), rules=funcgrad.kinks("zero"))(case.x)).all()


def test_a_fault_on_the_way_back_through_a_while_loop():
    found = nonfinite(looped(root), 1.0)
    assert line_of(root) in str(found.where)
    assert (found.pulls_back, found.kind, found.backward) == ("sqrt", "inf", True)
    ((loop, index),) = ((step.loop, step.index) for step in found.steps)
    assert (loop, index) == ("while loop", None)
    assert "of a while loop; which one is not known" in str(found)


# --- what is meant, and what is not


def attention(mask: Any) -> Callable[..., Any]:
    return lambda x: jax.nn.softmax(jnp.where(mask, x, -jnp.inf))[0]  # fault


FINITE = {
    "a mask of -inf": (attention(jnp.arange(4) < 2), ONES),
    "an additive mask": (lambda x: jax.nn.softmax(x + jnp.log(jnp.arange(4.0)))[1], ONES),
    "a nan that is not taken": (
        lambda x: jnp.where(x < 0, x, lax.stop_gradient(jnp.log(x))).sum(),
        -ONES,
    ),
    "one over infinity": (
        lambda x: (x / (1 + lax.stop_gradient(jnp.exp(x)))).sum(),
        100 * ONES,
    ),
    "a maximum that begins at -inf": (
        lambda x: lax.scan(lambda m, x: (jnp.maximum(m, x), None), -jnp.inf, x)[0],
        jnp.arange(4.0),
    ),
    "an infinite argument": (lambda x, bound: jnp.minimum(x, bound).sum(), ONES, jnp.inf),
    "nothing": (lambda x: jnp.sin(x).sum(), ONES),
}


@pytest.mark.parametrize("name", FINITE)
def test_what_is_finite_in_the_end_is_not_reported(name):
    fun, *args = FINITE[name]
    value, gradient = jax.value_and_grad(fun)(*args)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    found = nonfinite(fun, *args)
    assert not found
    assert str(found) == "Every result is finite."


def test_a_row_that_is_masked_all_over():
    found = nonfinite(attention(jnp.arange(4) < 0), ONES)
    assert (found.op, found.kind, found.backward) == ("sub", "nan", False)
    assert [x.there for x in found.operands] == [-math.inf, -math.inf]
    assert "every entry is masked" in str(found.suggestion)


def test_an_infinity_of_an_earlier_step_is_at_fault_for_a_nan():
    def step(x: Any, i: Any) -> Any:
        return jnp.where(i < 6, x * x, x - x), None  # fault

    found = nonfinite(lambda x: lax.scan(step, x, jnp.arange(10))[0], 10.0)
    assert line_of(step) in str(found.where)
    assert (found.op, found.kind) == ("mul", "inf")
    assert found.steps[0].index == 5  # 10 ** 2 ** 6 is above 3.4e38
    assert "`sub`" in str(found.became_nan)


def test_an_argument_that_is_not_finite():
    def loss(params: Any, batch: Any) -> Any:
        return jnp.sum(params["w"] * batch["x"])

    found = nonfinite(loss, {"w": ONES}, {"x": at(ONES, 2, jnp.nan)})
    assert (found.op, found.source, found.kind) == (None, "batch['x']", "nan")
    assert found.index == (2,)
    assert set(found.reaches) == {"the value", "the gradient by params['w']"}


def test_a_value_closed_over_that_is_not_finite():
    x = at(ONES, 2, jnp.nan)
    found = nonfinite(lambda w: jnp.sum(w * x), ONES)
    assert (found.op, found.source, found.index) == (
        None,
        "a value that the function closes over",
        (2,),
    )


def test_a_constant_that_is_not_finite():
    def loss(x: Any) -> Any:
        return jnp.sum(x * jnp.where(x > 0, jnp.nan, 1.0))  # fault

    found = nonfinite(loss, ONES)
    assert (found.source, found.kind) == ("a constant", "nan")
    assert line_of(loss) in str(found.where)


# --- known causes

SUGGESTIONS = {
    "log of a negative": (lambda x: jnp.log(x - 2).sum(), ONES, "negative"),
    "root of a negative": (lambda x: jnp.sqrt(x - 2).sum(), ONES, "negative"),
    "0/0": (lambda x: ((x - 1) / (x - 1)).sum(), ONES, "0/0 is nan"),
    "1/0": (lambda x: (x / (x - 1)).sum(), ONES, "denominator is 0"),
    "exp": (lambda x: jnp.exp(x * 100).sum(), ONES, "3.403e+38"),
    "pow": (lambda x: ((x - 1) ** -0.5).sum(), ONES, "negative power of 0"),
    "pow of a negative": (lambda x: ((x - 2) ** 0.5).sum(), ONES, "negative number"),
    "derivative of pow": (lambda x: ((x - 1) ** 0.5).sum(), ONES, "power at 0"),
    "rsqrt": (lambda x: lax.rsqrt(x - 1).sum(), ONES, "1/sqrt(0)"),
    "norm": (lambda x: jnp.linalg.norm(x - 1), ONES, "a norm"),
    "atan2": (lambda x: jnp.arctan2(x - 1, x - 1).sum(), ONES, "vector (0, 0)"),
    "float16": (lambda x: (x.astype("float16") * 300 * 300 / 1000).sum(), ONES, "6.55e+04"),
    "bfloat16": (lambda x: (x.astype("bfloat16") * 1e30 * 1e30).sum(), ONES, "bfloat16"),
    "logsumexp": (lambda x: jax.nn.logsumexp(x - jnp.inf), ONES, "logarithm of 0"),
}


@pytest.mark.parametrize("name", SUGGESTIONS)
def test_a_known_cause(name):
    fun, x, words = SUGGESTIONS[name]
    gradient = jax.value_and_grad(fun)(x)
    assert not all(bool(jnp.isfinite(y).all()) for y in jax.tree.leaves(gradient))
    suggestion = str(nonfinite(fun, x).suggestion)
    assert words in suggestion
    if "kinks" in suggestion:
        assert np.isfinite(funcgrad.grad(fun, rules=funcgrad.kinks("zero"))(x)).all()


def test_an_overflow_in_float16_is_found_at_the_operation():
    """Compiled, XLA may keep a float16 in float32, where nothing overflows."""

    def loss(x: Any) -> Any:
        half = x.astype(jnp.float16)
        return (half * jnp.flip(half)).astype(jnp.float32).sum()  # fault

    found = nonfinite(loss, jnp.array([200.0, 300.0, 300.0, 200.0]))
    assert (found.op, found.index, found.operands[0].there) == ("mul", (1,), 300.0)
    assert found.result is not None
    assert found.result.type == "float16[4]"


@pytest.mark.parametrize("name", ["plain", "jit", "scope"])
def test_a_program_that_is_run_in_small_chunks(name, monkeypatch):
    monkeypatch.setattr("funcgrad._jax.marks.CHUNK", 20)
    case = CASES[name]
    check_place(nonfinite(case.around(log), case.x), case, log)
    check_place(nonfinite(case.around(root), case.x), case, root)


# --- functions of other kinds


def test_the_users_own_backward_function():
    @jax.custom_vjp
    def crooked(x: Any) -> Any:
        return x * 2

    crooked.defvjp(lambda x: (x * 2, x), lambda x, ct: (ct / (x - 1),))

    def loss(x: Any) -> Any:
        return crooked(x).sum()  # fault

    found = nonfinite(loss, at(2 * ONES, 3, 1.0))
    assert (found.op, found.pulls_back, found.index) == ("div", "crooked", (3,))
    assert line_of(loss) in str(found.where)


def test_the_users_own_jvp():
    @jax.custom_jvp
    def f(x: Any) -> Any:
        return x * 2

    f.defjvp(lambda xs, ts: (f(*xs), ts[0] / (xs[0] - 1)))
    found = nonfinite(lambda x: f(x).sum(), at(2 * ONES, 3, 1.0))
    assert (found.op, found.index, found.backward) == ("div", (3,), True)


def test_a_users_rule():
    def sin_vjp(ct: Any, x: Any, *, out: Any, **_: Any) -> Any:
        return ct / x

    rules = funcgrad.DEFAULT.override({lax.sin_p: sin_vjp})
    found = nonfinite(lambda x: jnp.sin(x).sum(), at(ONES, 2, 0.0), rules=rules)
    assert found.pulls_back == "sin"
    assert re.match(r"sin_vjp \(.*test_nonfinite.py:\d+\)", str(found.rule))


def test_shard_map_is_named_at_the_call():
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")

    def loss(x: Any) -> Any:
        return jax.shard_map(jnp.log, mesh=mesh, in_specs=spec, out_specs=spec)(x).sum()  # fault

    found = nonfinite(loss, at(ONES, 2, 0.0))
    assert line_of(loss) in str(found.where)


def test_auxiliary_data_need_not_be_finite():
    assert not nonfinite(lambda x: (x.sum(), x / 0), ONES, has_aux=True)
    assert nonfinite(lambda x: (jnp.log(x).sum(), x / 0), 0 * ONES, has_aux=True).op == "log"


def test_arguments_of_all_kinds():
    def loss(params: Any, key: Any, count: int, act: Any) -> Any:
        return (act(params["w"]) + jax.random.uniform(key, (4,)) / count).sum()

    assert not nonfinite(loss, {"w": ONES}, jax.random.key(0), 3, jnp.tanh)
    found = nonfinite(loss, {"w": ONES}, jax.random.key(0), 0, jnp.tanh)
    assert (found.op, found.reaches) == ("div", ("the value",))


def test_complex_numbers():
    found = nonfinite(lambda x: jnp.abs(jnp.log(x * (1 + 0j))).sum(), at(ONES, 2, 0.0))
    assert (found.op, found.index) == ("log", (2,))


def test_nothing_that_is_found_is_raised_under_debug_nans():
    with jax.debug_nans(True), jax.debug_infs(True):
        assert nonfinite(lambda x: jnp.log(x).sum(), 0 * ONES).op == "log"


def test_a_flax_linen_model():
    linen = pytest.importorskip("flax.linen")

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            h = linen.Dense(8, name="first")(x)
            h = h / jnp.sqrt(jnp.sum(h**2))  # fault
            return linen.Dense(1, name="second")(h)

    model = Model()
    params = model.init(jax.random.key(0), jnp.ones(3))
    found = nonfinite(lambda params, x: model.apply(params, x).sum(), params, jnp.zeros(3))
    assert (found.op, found.kind, found.backward) == ("div", "nan", False)
    assert line_of(Model.__call__) in str(found.where)
    assert "Model" in found.scope


def test_an_equinox_model():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(3, 1, 8, 1, key=jax.random.key(0), activation=root)
    dead = eqx.tree_at(lambda m: m.layers[0].weight, model, jnp.zeros((8, 3)))
    dead = eqx.tree_at(lambda m: m.layers[0].bias, dead, jnp.ones(8).at[5].set(0.0))
    found = nonfinite(lambda model, x: model(x).sum(), dead, jnp.ones(3))
    assert (found.pulls_back, found.index) == ("sqrt", (5,))
    assert line_of(root) in str(found.where)


def test_a_function_that_cannot_be_traced_is_reported_without_a_place():
    def loss(x: Any) -> Any:
        return root(x).sum() if x[0] > 0 else x[0]

    assert not nonfinite(loss, ONES)
    found = nonfinite(loss, at(ONES, 2, 0.0))
    assert (found.kind, found.op, found.reaches) == ("nan or inf", None, ("the gradient by x",))
    assert "TracerBoolConversionError" in str(found)


# --- inside a running step


def step_of(loss: Callable[..., Any]) -> Callable[..., Any]:
    @jax.jit
    def step(x: Any, scale: Any) -> Any:
        closed_over = lambda x: loss(x * scale)
        value, gradient = funcgrad.value_and_grad(closed_over, debug_nans=True)(x)
        return x - 0.1 * gradient, value

    return step


def run(step: Callable[..., Any], *args: Any) -> Any:
    out = jax.block_until_ready(step(*args))
    jax.effects_barrier()
    return out


def test_a_derivative_that_raises():
    gradient = funcgrad.grad(lambda x: masked_root(x).sum(), debug_nans=True)
    expected = jax.grad(lambda x: masked_root(x).sum())(ONES)
    np.testing.assert_array_equal(gradient(ONES), expected)
    with pytest.raises(errors.NotFiniteError) as raised:
        gradient(at(ONES, 2, 0.0))
    check_place(raised.value.report, Case(lambda op: op, None, (2,)), masked_root)
    assert str(raised.value.report) in str(raised.value)
    assert "the value and the gradient must be finite" in str(raised.value)


def test_a_running_jitted_step_raises():
    step = step_of(lambda x: masked_root(x).sum())
    x, value = ONES, 0.0
    for _ in range(3):
        x, value = run(step, x, 1.0)
    assert value > 0
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        run(step, at(x, 2, 0.0), 1.0)
    message = str(raised.value)
    assert "NotFiniteError" in message
    assert "on the way back through `sqrt`" in message
    assert line_of(masked_root) in message
    assert "inf at index [2]" in message
    run(step, x, 1.0)


def test_the_example_under_vmap():
    gradient = funcgrad.grad(lambda x, y: (masked_root(x) * y).sum(), debug_nans=True)
    batched = jax.jit(jax.vmap(jax.vmap(gradient, (0, None)), (1, None), 1))
    xs = jnp.ones((3, 5, 4))
    expected = jax.vmap(
        jax.vmap(jax.grad(lambda x, y: (masked_root(x) * y).sum()), (0, None)), (1, None), 1
    )
    np.testing.assert_allclose(run(batched, xs, ONES), expected(xs, ONES))
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        run(batched, at(xs, (1, 3, 2), 0.0), ONES)
    assert re.search(r"example: +3, 1\n", str(raised.value))
    assert "inf at index [2]" in str(raised.value)


def test_on_a_part_of_a_mesh_the_step_raises_too():
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")

    def per_device(x: Any) -> Any:
        loss = lambda x: lax.psum(root(x).sum(), "i")
        return funcgrad.grad(loss, debug_nans=True)(x)

    step = jax.jit(jax.shard_map(per_device, mesh=mesh, in_specs=spec, out_specs=spec))
    run(step, ONES)
    with pytest.raises(jax.errors.JaxRuntimeError, match="must be finite"):
        run(step, at(ONES, 2, 0.0))


def test_threads_have_reports_of_their_own():
    step = jax.jit(funcgrad.grad(lambda x: root(x).sum(), debug_nans=True))
    run(step, ONES)

    def index_of(i: int) -> str:
        try:
            jax.block_until_ready(step(at(ONES, i % 4, 0.0)))
        except jax.errors.JaxRuntimeError as error:
            return str(re.findall(r"inf at index \[(\d)\]", str(error)))
        return "finite"

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(index_of, range(16))) == [f"['{i % 4}']" for i in range(16)]


def test_a_step_in_a_scan_over_batches():
    @jax.jit
    def epoch(x: Any, batches: Any) -> Any:
        step = step_of(lambda x: log(x).sum())
        return lax.scan(lambda x, scale: (step(x, scale)[0], None), x, batches)[0]

    run(epoch, ONES, jnp.ones(3))
    with pytest.raises(jax.errors.JaxRuntimeError, match="begins at `log`"):
        run(epoch, ONES, jnp.array([1.0, 1.0, 0.0]))


def test_with_random_keys_integers_and_auxiliary_data():
    def loss(params: Any, key: Any, count: Any) -> Any:
        noise = jax.random.normal(key, (4,))
        return masked_root(params["w"]).sum(), {"noise": noise / 0, "count": count}

    step = jax.jit(funcgrad.value_and_grad(loss, has_aux=True, debug_nans=True))
    plain = jax.jit(jax.value_and_grad(loss, has_aux=True))
    args = {"w": ONES}, jax.random.key(0), 3
    jax.tree.map(np.testing.assert_allclose, run(step, *args), run(plain, *args))
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"the gradient by params\['w'\]"):
        run(step, {"w": at(ONES, 1, 0.0)}, *args[1:])


def test_argnums_and_keywords():
    f = lambda x, y, *, scale: (root(y) * x * scale).sum()
    gradients = funcgrad.grad(f, argnums=(0, 1), debug_nans=True)
    expected = jax.grad(f, argnums=(0, 1))(ONES, 2 * ONES, scale=3.0)
    jax.tree.map(np.testing.assert_allclose, gradients(ONES, 2 * ONES, scale=3.0), expected)
    with pytest.raises(errors.NotFiniteError, match=r"reaches: +the gradient by y\n"):
        gradients(ONES, at(ONES, 0, 0.0), scale=3.0)


def test_a_second_derivative():
    f = funcgrad.grad(lambda x: x**1.5, debug_nans=True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="power at 0"):
        run(jax.jit(funcgrad.grad(f, debug_nans=True)), 0.0)
    np.testing.assert_allclose(funcgrad.grad(f)(4.0), jax.grad(jax.grad(lambda x: x**1.5))(4.0))


def test_unused_it_is_the_same_program():
    x = at(ONES, 1, 3.0)
    f = lambda x: masked_root(x).sum()
    plain = jax.make_jaxpr(funcgrad.value_and_grad(f))(x)
    unused = jax.make_jaxpr(funcgrad.value_and_grad(f, debug_nans=False))(x)
    assert str(plain) == str(unused)
