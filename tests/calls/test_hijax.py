"""Primitives that expand themselves: the rules that they bring are used, wherever they stand."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.extend.core import Primitive

import funcgrad
from funcgrad import errors
from tests import compare
from tests.calls import hijax_examples as examples
from tests.calls.hijax_examples import KINDS, ByVjp, apply, left, pair, product, right

assert_same = functools.partial(compare.assert_same, rtol=1e-6, weak=False)
"""Single precision; whether a type is weak is not what is asked here."""

X = jnp.asarray([0.3, 1.1, -0.7], jnp.float32)
SLOPE = 10 * jnp.cos(X)


def on_mesh(f: Any) -> Any:
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec)


PLACES = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "jit in jit": lambda f: jax.jit(lambda x: jax.jit(f)(x)),
    "vmap": jax.vmap,
    "vmap of jit": lambda f: jax.vmap(jax.jit(f)),
    "scan": lambda f: lambda x: lax.scan(lambda c, _: (f(c), None), x, None, length=1)[0],
    "scan over xs": lambda f: lambda x: lax.scan(lambda c, x: (c, f(x)), 0.0, x)[1],
    "fori_loop": lambda f: lambda x: lax.fori_loop(0, 1, lambda i, c: f(c), x),
    "while_loop": lambda f: (
        lambda x: lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, f(c[1])), (0, x))[1]
    ),
    "cond": lambda f: lambda x: lax.cond(x.sum() > -9, f, jnp.cos, x),
    "switch": lambda f: lambda x: lax.switch(1, [jnp.cos, f, jnp.tanh], x),
    "remat": jax.checkpoint,
    "remat dots": functools.partial(
        jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
    "remat of jit": lambda f: jax.checkpoint(jax.jit(f)),
    "min-cut": functools.partial(funcgrad.checkpoint, policy="min-cut"),
    "shard_map": on_mesh,
    "named_call": lambda f: jax.named_call(f, name="there"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_gradient_is_by_the_primitives_rule(place: str, kind: str) -> None:
    f = PLACES[place](apply(KINDS[kind]))
    assert_same(f(X), jnp.sin(X))
    assert_same(funcgrad.grad(lambda x: f(x).sum())(X), SLOPE)


@pytest.mark.parametrize("place", ["plain", "scan", "remat", "while_loop"])
def test_gradient_in_jit_is_by_the_primitives_rule(place: str) -> None:
    f = PLACES[place](apply(ByVjp))
    assert_same(jax.jit(funcgrad.grad(lambda x: f(x).sum()))(X), SLOPE)


@pytest.mark.parametrize("place", ["plain", "jit", "scan", "cond", "vmap", "shard_map"])
def test_gradient_is_that_of_jax_grad(place: str) -> None:
    f = PLACES[place](apply(ByVjp))
    loss = lambda x: (f(x) ** 2).sum()
    assert_same(funcgrad.grad(loss)(X), jax.grad(loss)(X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["plain", "jit", "scan", "remat", "cond"])
def test_second_derivative(place: str, kind: str) -> None:
    """The rule multiplies the cosine, whose derivative is the usual one, by ten."""
    f = PLACES[place](apply(KINDS[kind]))
    slope = lambda x: funcgrad.grad(lambda x: f(x).sum())(x).sum()
    assert_same(funcgrad.grad(slope)(X), -10 * jnp.sin(X))


def test_jax_differentiates_our_gradient() -> None:
    slope = funcgrad.grad(lambda x: apply(ByVjp)(x).sum())
    assert_same(jax.grad(lambda x: slope(x).sum())(X), -10 * jnp.sin(X))
    slope = funcgrad.grad(lambda x: apply(KINDS["ByJvp"])(x).sum())
    _, tangent = jax.jvp(slope, (X,), (jnp.ones_like(X),))
    assert_same(tangent, -10 * jnp.sin(X))


def test_a_chain_uses_the_rule_at_each_link() -> None:
    f = jax.jit(lambda x: apply(ByVjp)(jnp.exp(apply(ByVjp)(x))))
    inside = jnp.exp(jnp.sin(X))
    expected = 10 * jnp.cos(inside) * inside * 10 * jnp.cos(X)
    assert_same(funcgrad.grad(lambda x: f(x).sum())(X), expected)


def test_the_rule_knows_what_is_differentiated_and_what_arrived() -> None:
    x, y = jnp.float32(2.0), jnp.float32(3.0)
    examples.Product.asked.clear()
    assert_same(funcgrad.grad(product)(x, y), jnp.float32(30.0))
    assert_same(funcgrad.grad(product, 1)(x, y), jnp.float32(200.0))
    both = funcgrad.grad(lambda x, y: jax.jit(product)(x, y), (0, 1))(x, y)
    assert_same(both, (jnp.float32(30.0), jnp.float32(200.0)))
    assert set(examples.Product.asked) == {(True, False), (False, True), (True, True)}


def test_a_backward_rule_may_log_but_return_nothing_else() -> None:
    class Logging(ByVjp):
        logged: Any = None

        def vjp_bwd(self, x: Any, ct: Any, ct_x: Any) -> Any:
            ct_x.accum(10 * ct * jnp.cos(x))
            return self.logged

        vjp_bwd_retval = examples.Primitive.vjp_bwd_retval

    class Named(Logging):
        logged: Any = {"x": 1}  # noqa: RUF012

    class Wrong(Logging):
        logged: Any = (1,)

    assert_same(funcgrad.grad(lambda x: apply(Named)(x).sum())(X), SLOPE)
    with pytest.raises(errors.PrimitiveRuleError, match=r"`Wrong`.*backward-pass log.*tuple"):
        funcgrad.grad(lambda x: apply(Wrong)(x).sum())(X)


@pytest.mark.parametrize("place", ["plain", "jit", "vmap", "scan over xs", "remat"])
def test_custom_root(place: str) -> None:
    """It is such a primitive from JAX 0.12 on. Of x**3 = a, dx/da = 1 / (3 x**2)."""

    def newton(f: Any, x: Any) -> Any:
        return lax.fori_loop(0, 40, lambda _, x: x - f(x) / (3 * x**2), x)

    def root(a: Any) -> Any:
        divided = lambda g, y: y / g(jnp.ones_like(y))
        return lax.custom_root(lambda x: x**3 - a, jnp.ones_like(a), newton, divided)

    a = jnp.asarray([1.3, 2.0, 0.8], jnp.float32)
    found = funcgrad.grad(lambda a: PLACES[place](root)(a).sum())(a)
    compare.assert_same(found, 1 / (3 * a ** (2 / 3)), rtol=1e-5, weak=False)


def test_a_zero_output_passes_no_gradient() -> None:
    f = lambda x: examples.Product(jax.typeof(x), jax.typeof(x))(x, x)["zero"]
    assert_same(funcgrad.grad(f)(jnp.float32(2.0)), jnp.float32(0.0))


def test_a_primitive_without_a_rule_is_an_error_and_not_opened() -> None:
    class Unfinished(examples.WithoutRule):
        def vjp_fwd(self, nonzero: Any, x: Any) -> Any:
            raise NotImplementedError

        def vjp_bwd_retval(self, kept: Any, ct: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(errors.MissingRuleError, match=r"`Unfinished`.*vjp_fwd"):
        funcgrad.grad(lambda x: apply(Unfinished)(x).sum())(X)
    f = apply(examples.WithoutRule)
    for run in (f, jax.jit(f), jax.checkpoint(f), PLACES["scan"](f)):
        with pytest.raises(errors.MissingRuleError, match=r"`WithoutRule`.*vjp_fwd"):
            funcgrad.grad(lambda x, run=run: run(x).sum())(X)
    assert_same(funcgrad.grad(lambda x: (f(lax.stop_gradient(x)) * x).sum())(X), jnp.sin(X))


# --- types of their own


@pytest.mark.parametrize("place", ["plain", "jit", "remat"])
def test_values_of_a_type_of_its_own_pass_between_operations(place: str) -> None:
    def f(x: Any) -> Any:
        both = pair(jnp.sin(x), x**2)
        return left(both) * right(both)

    expected = jnp.cos(X) * X**2 + 3 * 2 * X * jnp.sin(X)
    assert_same(funcgrad.grad(lambda x: PLACES[place](f)(x).sum())(X), expected)
    assert_same(jax.jit(funcgrad.grad(lambda x: PLACES[place](f)(x).sum()))(X), expected)


def test_gradient_by_an_argument_of_a_type_of_its_own() -> None:
    f = lambda both: (left(both) ** 2 * right(both)).sum()
    both = pair(X, X + 1)
    for run in (f, jax.jit(f)):
        found = funcgrad.grad(run)(both)
        assert_same((left(found), right(found)), (2 * X * (X + 1), X**2))
    result, pullback = funcgrad.vjp(lambda x: pair(x, x), X)
    assert_same(left(result), X)
    assert_same(pullback(pair(X, X)), (X + 3 * X,))


def test_a_type_of_its_own_is_closed_over_and_kept() -> None:
    both = pair(X, X + 1)
    f = jax.jit(lambda x: (left(both) * right(both) * x**2).sum())
    assert_same(funcgrad.grad(f)(X), 2 * X * X * (X + 1))


def test_an_argument_without_a_cotangent_gets_zeros_of_its_type() -> None:
    found = funcgrad.grad(lambda both, x: (x**2).sum(), (0, 1))(pair(X, X), X)
    assert_same(left(found[0]), jnp.zeros_like(X))


def test_a_cotangent_of_another_type_is_refused() -> None:
    _, pullback = funcgrad.vjp(lambda x: pair(x, x), X)
    with pytest.raises(errors.CotangentError, match="Pair"):
        pullback(X)


boxes = pytest.mark.skipif(
    not hasattr(jax._src.hijax, "Box"), reason="JAX has no boxes from 0.11 on"
)


@boxes
@pytest.mark.parametrize("place", [lambda f: f, jax.jit])
def test_a_box_keeps_what_a_backward_function_puts_there(place: Any) -> None:
    from jax._src.hijax import Box

    box = Box(0.0)

    @jax.custom_vjp
    def seen(box, x):
        return x

    def backward(box, ct):
        box.set(ct)
        return None, ct

    seen.defvjp(lambda box, x: (x, box), backward)
    f = place(lambda box, x: 2 * seen(box, 3 * x))
    assert_same(funcgrad.grad(functools.partial(f, box))(1.0), jnp.float32(6.0))
    assert_same(box.get(), jnp.float32(2.0))


@boxes
@pytest.mark.parametrize("place", [lambda f: f, jax.jit])
def test_a_differentiated_value_in_a_box_is_an_error(place: Any) -> None:
    from jax._src.hijax import Box

    def through(x):
        box = Box(0.0)
        box.set(x)
        return box.get() ** 2

    with pytest.raises(errors.MutableValueError, match="box_set"):
        funcgrad.grad(place(through))(1.0)


@boxes
def test_a_box_holds_what_has_no_gradient() -> None:
    from jax._src.hijax import Box

    box = Box(0.0)

    @jax.jit
    def f(x):
        box.set(lax.stop_gradient(3 * x))
        return x**2 + box.get()

    assert_same(funcgrad.grad(f)(4.0), jnp.float32(8.0))
    assert_same(box.get(), jnp.float32(12.0))


# --- what JAX itself makes of functions in this way


@contextlib.contextmanager
def setting(name: str, value: bool = True) -> Iterator[None]:
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


@pytest.fixture
def custom_vjp3() -> Iterator[None]:
    with setting("jax_custom_vjp3"):
        yield


@pytest.fixture
def remat3() -> Iterator[None]:
    with setting("jax_remat3"):
        yield


def times_ten(symbolic: bool, optimize: bool) -> Any:
    """x -> sin(x) y, with ten times the derivative by x and None by y."""
    value = (lambda x: x.value) if symbolic else (lambda x: x)
    f = jax.custom_vjp(lambda x, y: jnp.sin(x) * y)
    f.defvjp(
        lambda x, y: (jnp.sin(value(x)) * value(y), (value(x), value(y))),
        lambda kept, ct: (10 * ct * jnp.cos(kept[0]) * kept[1], None),
        symbolic_zeros=symbolic,
        optimize_remat=optimize,
    )
    return f


@pytest.mark.parametrize("place", ["plain", "jit", "vmap", "scan", "cond", "remat", "while_loop"])
@pytest.mark.parametrize("options", [(False, False), (True, False), (False, True)], ids=str)
def test_custom_vjp(custom_vjp3: Any, place: str, options: tuple[bool, bool]) -> None:
    f = PLACES[place](lambda x: times_ten(*options)(x, 2 * x))
    assert_same(funcgrad.grad(lambda x: f(x).sum())(X), SLOPE * 2 * X)


@pytest.mark.parametrize("place", ["plain", "jit", "scan", "remat"])
def test_the_function_itself_is_run_where_no_residual_is_used(custom_vjp3: Any, place: str) -> None:
    """With `optimize_remat` the value of a checkpointed function is its own, not its forward rule's."""
    f = jax.custom_vjp(jnp.tan)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),), optimize_remat=True)
    total = lambda x: jnp.sum(PLACES[place](f)(x) ** 2)
    assert_same(funcgrad.value_and_grad(total)(X), jax.value_and_grad(total)(X))


@pytest.mark.parametrize("by_primitive", [False, True])
@pytest.mark.parametrize("how", [jax.checkpoint, lambda f: jax.checkpoint(jax.jit(f))])
def test_optimize_remat_is_jaxs_under_remat3(
    custom_vjp3: Any, how: Any, by_primitive: bool
) -> None:
    f = jax.custom_vjp(jnp.tan)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),), optimize_remat=True)
    total = lambda x: jnp.sum(how(f)(x) ** 2)
    with setting("jax_remat3", by_primitive):
        assert_same(funcgrad.value_and_grad(total)(X), jax.value_and_grad(total)(X))


@pytest.mark.parametrize("by_primitive", [False, True])
def test_which_of_several_rules_is_used_in_a_checkpoint(by_primitive: bool) -> None:
    class Both(ByVjp):
        def jvp(self, primals: Any, tangents: Any) -> Any:
            return self(*primals), 7 * tangents[0] * jnp.cos(primals[0])

    total = lambda x: jnp.sum(jax.checkpoint(apply(Both))(x) ** 2)
    with setting("jax_remat3", by_primitive):
        assert_same(funcgrad.grad(total)(X), jax.grad(total)(X))


def test_optimize_remat_outside_a_checkpoint_is_batched(custom_vjp3: Any) -> None:
    f = jax.custom_vjp(jnp.tan)
    f.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),), optimize_remat=True)
    for grad in (funcgrad.grad, jax.grad):
        assert_same(jax.jit(jax.vmap(grad(lambda x: f(x))))(X), jnp.cos(X))


@pytest.mark.parametrize("place", ["plain", "remat"])
def test_optimize_remat_to_second_order(custom_vjp3: Any, place: str) -> None:
    """JAX refuses that, so it is asked for the same without the option."""

    def total_slope(grad: Any, optimize: bool) -> Any:
        f = PLACES[place](lambda x: times_ten(False, optimize)(x, x))
        return grad(lambda x: jnp.sum(grad(lambda x: f(x).sum())(x) ** 2))

    assert_same(total_slope(funcgrad.grad, True)(X), total_slope(jax.grad, False)(X))


def test_custom_vjp_with_static_arguments(custom_vjp3: Any) -> None:
    f = jax.custom_vjp(lambda x, g: g(x), nondiff_argnums=(1,))
    f.defvjp(lambda x, g: (g(x), x), lambda g, x, ct: (7 * ct * g(x),))
    for run in (
        lambda x: f(x, jnp.sin),
        jax.jit(lambda x: f(x, jnp.sin)),
        jax.vmap(lambda x: f(x, jnp.sin)),
    ):
        assert_same(funcgrad.grad(lambda x, run=run: run(x).sum())(X), 7 * jnp.sin(X))


def test_custom_vjp_is_overridden(custom_vjp3: Any) -> None:
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    f.defvjp(lambda x: (f(x), x), lambda x, ct: (10 * ct * jnp.cos(x),))
    rules = funcgrad.DEFAULT.override({f: lambda ct, x, *, out: 5 * ct})
    for run in (f, jax.jit(f)):
        assert_same(funcgrad.grad(lambda x, run=run: run(x).sum(), rules=rules)(X), 5 + 0 * X)


@pytest.mark.skipif(not hasattr(jax.config, "jax_custom_jvp3"), reason="JAX has it from 0.12 on")
@pytest.mark.parametrize("place", ["plain", "jit", "vmap", "scan", "cond", "remat"])
def test_custom_jvp(place: str) -> None:
    with setting("jax_custom_jvp3"):
        f = jax.custom_jvp(lambda x: jnp.sin(x))
        f.defjvp(lambda primals, tangents: (f(*primals), 10 * tangents[0] * jnp.cos(*primals)))
        assert_same(funcgrad.grad(lambda x: PLACES[place](f)(x).sum())(X), SLOPE)


@pytest.mark.parametrize("place", ["plain", "jit", "scan", "cond"])
@pytest.mark.parametrize("policy", [None, "everything_saveable", "dots_saveable"])
def test_remat(remat3: Any, place: str, policy: str | None) -> None:
    chosen = policy and getattr(jax.checkpoint_policies, policy)
    block = jax.checkpoint(lambda x: jnp.exp(apply(ByVjp)(jnp.tanh(x))), policy=chosen)
    f = PLACES[place](block)
    y = jnp.tanh(X)
    expected = jnp.exp(jnp.sin(y)) * 10 * jnp.cos(y) * (1 - y**2)
    assert_same(funcgrad.grad(lambda x: f(x).sum())(X), expected)


def test_a_name_saves_what_it_names(remat3: Any) -> None:
    """The sine is a matrix product here, so that computing it again would show in the program."""
    from jax.ad_checkpoint import checkpoint_name

    def f(x: Any) -> Any:
        return jnp.sin(checkpoint_name(x @ x, "product")).sum()

    policy = jax.checkpoint_policies.save_only_these_names("product")
    count = lambda f: str(jax.make_jaxpr(funcgrad.grad(f))(jnp.eye(2))).count("dot_general")
    saved, computed = jax.checkpoint(f, policy=policy), jax.checkpoint(f)
    assert_same(funcgrad.grad(saved)(jnp.eye(2)), funcgrad.grad(computed)(jnp.eye(2)))
    assert count(saved) == 3
    assert count(computed) == 4


@pytest.mark.parametrize("place", ["plain", "jit", "scan", "cond"])
def test_a_name_inside_a_call_saves_as_without_remat3(place: str) -> None:
    """As many matrix products as in the program of ``jax.grad`` without a primitive for names."""
    from jax.ad_checkpoint import checkpoint_name

    step = PLACES[place](lambda x: jnp.sin(checkpoint_name(jnp.cos(x @ x), "product")))
    policy = jax.checkpoint_policies.save_only_these_names("product")

    def products(grad: Any, by_primitive: bool) -> int:
        with setting("jax_remat3", by_primitive):
            f = jax.checkpoint(lambda x: step(x).sum(), policy=policy)
            return str(jax.make_jaxpr(grad(f))(jnp.eye(2))).count("dot_general")

    expected = products(jax.grad, False)
    assert products(funcgrad.grad, False) == expected
    assert products(funcgrad.grad, True) == expected


def test_fused_call() -> None:
    """It is compiled for GPUs alone, so its program is read. A cotangent lies where its operand does."""
    from jax.experimental.fused import fused

    space = jax.memory.Space
    f = fused(out_spaces=(space.Host, space.Device))(lambda x, y: (x + y, x * y))
    loss = lambda x, y: f(x, y)[1].sum()
    args = jax.device_put(X, space.Host), X
    ours, theirs = (jax.jit(grad(loss, (0, 1))).trace(*args) for grad in (funcgrad.grad, jax.grad))
    assert [v.aval for v in ours.jaxpr.jaxpr.outvars] == [
        v.aval for v in theirs.jaxpr.jaxpr.outvars
    ]
    assert str(ours.jaxpr).count("fused_call[") == 2
    ours.lower(lowering_platforms=("cuda",))


# --- nothing unknown is opened


def ten_times(x: Any) -> Any:
    return 2 * x


ten_times = jax.custom_vjp(ten_times)
ten_times.defvjp(lambda x: (2 * x, None), lambda _, ct: (10 * ct,))


def with_rule_on_tangents(linear: Any) -> Any:
    """A custom_jvp function whose rule applies `linear` to its tangent."""
    f = jax.custom_jvp(jnp.sin)
    f.defjvp(lambda primals, tangents: (f(*primals), linear(*tangents)))
    return f


class Linear(examples.Unary):
    """2 x, transposed as 10 ct."""

    def expand(self, x: Any) -> Any:
        return 2 * x

    def transpose(self, ct: Any, ct_x: Any) -> None:
        ct_x.accum(10 * ct)


class LinearByVjp(Linear):
    transpose = examples.Primitive.transpose

    def vjp_fwd(self, nonzero: Any, x: Any) -> Any:
        return self(x), None

    def vjp_bwd_retval(self, _: Any, ct: Any) -> Any:
        return (10 * ct,)


class LinearWithoutRule(Linear):
    transpose = examples.Primitive.transpose


@pytest.mark.parametrize("vjp3", [False, True])
@pytest.mark.parametrize("linear", [ten_times, apply(Linear), apply(LinearByVjp)])
def test_a_rule_of_its_own_is_used_on_tangents(linear: Any, vjp3: bool) -> None:
    with setting("jax_custom_vjp3", vjp3):
        f = with_rule_on_tangents(linear)
        for run in (f, jax.jit(f), jax.vmap(f)):
            assert_same(funcgrad.grad(lambda x, run=run: run(x).sum())(X), 10 + 0 * X)


def test_a_primitive_without_a_rule_is_not_opened_on_tangents() -> None:
    f = with_rule_on_tangents(apply(LinearWithoutRule))
    with pytest.raises(errors.MissingRuleError, match=r"`LinearWithoutRule`.*transpose"):
        funcgrad.grad(lambda x: f(x).sum())(X)


def test_a_high_primitive_that_told_nobody_its_derivative_is_not_opened() -> None:
    """It expands itself where JAX asks for that; our trace must not."""
    secret_p = Primitive("secret")
    secret_p.is_high = lambda *avals, **params: True
    secret_p.to_lojax = lambda x: jnp.sin(x)
    secret_p.def_abstract_eval(lambda aval: aval)
    for run in (secret_p.bind, jax.jit(secret_p.bind)):
        with pytest.raises(errors.MissingRuleError, match="secret"):
            funcgrad.grad(lambda x, run=run: run(x).sum())(X)


def test_an_operation_that_returns_nothing_is_an_error() -> None:
    """Nothing could ever ask it for a cotangent."""
    sink_p = Primitive("sink")
    sink_p.multiple_results = True
    sink_p.def_impl(lambda x: [])
    sink_p.def_abstract_eval(lambda aval: [])
    with pytest.raises(errors.MutableValueError, match="sink"):
        funcgrad.grad(lambda x: sink_p.bind(x) or x.sum())(X)
    funcgrad.grad(lambda x: sink_p.bind(lax.stop_gradient(x)) or x.sum())(X)


@pytest.mark.skipif(
    not hasattr(jax.extend.core, "CallPrimitive"), reason="JAX has no call primitives from 0.12 on"
)
def test_an_unknown_call_is_not_opened() -> None:
    from jax._src import linear_util
    from jax.extend.core import CallPrimitive

    unknown_p = CallPrimitive("unknown_call")
    unknown_p.def_impl(lambda fun, *args: fun.call_wrapped(*args))
    info = linear_util.DebugInfo("test", "sine", None, None)

    def run(x: Any) -> Any:
        fun = linear_util.wrap_init(lambda x: [jnp.sin(x)], debug_info=info)
        return unknown_p.bind(x, subfuns=(fun,))[0]

    assert_same(run(X), jnp.sin(X))
    with pytest.raises(errors.UnknownCallError, match="unknown_call"):
        funcgrad.grad(lambda x: run(x).sum())(X)
    assert_same(funcgrad.grad(lambda x: (run(X) * x).sum())(X), jnp.sin(X))


def test_a_function_behind_jvp_is_walked_back_by_its_backward_function(custom_vjp3: Any) -> None:
    """jax.jvp leaves a call of the backward function behind, on tangents: linear in them."""
    inner = lambda x: times_ten(False, False)(x, jnp.ones_like(x))
    f = jax.custom_jvp(jnp.sin)
    f.defjvp(lambda primals, tangents: jax.jvp(inner, primals, tangents))
    for run in (f, jax.jit(f), PLACES["scan"](f)):
        assert_same(funcgrad.grad(lambda x, run=run: run(x).sum())(X), SLOPE)
