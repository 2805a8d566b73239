"""Calls that mean what their jaxpr means: linear_call, custom_vmap, composite, compute_on and others."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.experimental.compute_on
import jax.experimental.xla_metadata as xla_metadata
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.custom_derivatives import linear_call
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.scheduling_groups import scheduling_group

import funcgrad
from tests.compare import assert_same
from tests.programs import check_program, normal
from tests.rules.cases import primitives_in

X = normal(3)

compute_on = getattr(
    jax.experimental.compute_on, "compute_on2", jax.experimental.compute_on.compute_on
)


@pytest.fixture(autouse=True)
def x64() -> Any:
    with jax.enable_x64(True):
        yield


def body(x: Any) -> Any:
    return jnp.sin(x) * x[::-1] + jnp.max(x)


@functools.partial(
    compute_on, compute_type="device_host", out_memory_spaces=jax.memory.Space.Device
)
def on_host(x: Any) -> Any:
    return body(x)


def by_transpose(x: Any) -> Any:
    """A linear call; the transpose is not that of the function, so that using the function shows."""
    scale = jnp.arange(1.0, 4.0)
    return linear_call(lambda r, x: x / r, lambda r, ct: 7.0 * ct / r, scale, jnp.sin(x))


def by_transpose_of_trees(x: Any) -> Any:
    def fun(_: Any, xs: Any) -> Any:
        return {"sum": xs[0] + xs[1], "difference": xs[0] - xs[1]}

    def transpose(_: Any, ct: Any) -> Any:
        return ct["sum"] + ct["difference"], ct["sum"] - 3.0 * ct["difference"]

    out = linear_call(fun, transpose, (), (x, x**2))
    return out["sum"] * jnp.sin(x)


@jax.custom_jvp
def linear_call_in_rule(x: Any) -> Any:
    return jnp.tanh(x)


@linear_call_in_rule.defjvp
def linear_call_in_rule_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (t,) = primals, tangents
    out = linear_call(lambda r, t: t * r, lambda r, ct: 5.0 * ct * r, jnp.cosh(x), t)
    return linear_call_in_rule(x), out


def root_of_cubic(x: Any) -> Any:
    """y with y^3 + y = x, by Newton's method, differentiated implicitly."""

    def solve(fun: Any, y: Any) -> Any:
        step = lambda y: y - fun(y) / (3 * y**2 + 1)
        return lax.fori_loop(0, 30, lambda _, y: step(y), y)

    def tangent_solve(fun: Any, y: Any) -> Any:
        return y / fun(jnp.ones_like(y))

    return lax.custom_root(lambda y: y**3 + y - x, jnp.zeros_like(x), solve, tangent_solve)


def tagged(x: Any) -> Any:
    return xla_metadata.set_xla_metadata(jnp.sin(x), kind="sine") * x


def tagged_by_context(x: Any) -> Any:
    with xla_metadata.set_xla_metadata(kind="sine"):
        return jnp.sin(x) * x


def scoped(x: Any) -> Any:
    with jax.named_scope("scope"):
        return jax.named_call(body, name="called")(x)


def closed(x: Any) -> Any:
    """What is traced already and called: a call with a jaxpr, from JAX 0.12."""
    return jax.jit(body).trace(x)(x)


def converted(x: Any) -> Any:
    fun, consts = jax.closure_convert(lambda y: y * jnp.sin(x), x)
    return fun(x, *consts)


FUNCTIONS = {
    "closed call": closed,
    "named": scoped,
    "closure_convert": converted,
    "compute_on": on_host,
    "compute_on in jit": jax.jit(lambda x: on_host(x) * x),
    "metadata": tagged,
    "metadata context": tagged_by_context,
    "scheduling group": scheduling_group("group")(body),
}
UNBATCHED = {
    "linear_call": by_transpose,
    "linear_call of trees": by_transpose_of_trees,
    "linear_call in jit": jax.jit(lambda x: by_transpose(x) * x),
    "linear_call in a custom_jvp rule": linear_call_in_rule,
}
if hasattr(xla_metadata, "xla_metadata_call"):
    FUNCTIONS["xla_metadata_call"] = xla_metadata.xla_metadata_call(body, kind="body")
    FUNCTIONS["xla_metadata_call2"] = xla_metadata.xla_metadata_call2(
        body, {"kind": "forward"}, ad_metadata={"kind": "backward"}
    )
try:
    from jax.experimental.overlap import program_order  # from JAX 0.12
except ImportError:
    pass
else:
    FUNCTIONS["program_order"] = program_order(body, enforce=False)
    FUNCTIONS["program_order, enforced"] = jax.jit(program_order(body, enforce=True))


@pytest.mark.parametrize("fun", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_equals_jax(fun):
    check_program(lambda x: jnp.sum(jnp.sin(fun(x))), X)


@pytest.mark.parametrize("fun", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_in_scan(fun):
    def loss(x: Any) -> Any:
        return jnp.sum(lax.scan(lambda c, y: (fun(c) + y, jnp.sum(fun(y))), x, jnp.outer(X, x))[0])

    x = jnp.asarray(X)
    assert_same(jax.jit(funcgrad.grad(loss))(x), jax.jit(jax.grad(loss))(x), 1e-11, weak=False)


@pytest.mark.parametrize("name", UNBATCHED)
def test_what_jax_cannot_batch(name):
    """jax.vmap has no rule for linear_call, so here without it.

    Nor has jax.grad a second derivative where a linear operand is constant, or a residual is not.
    """
    fun = UNBATCHED[name]
    orders = 2 if name in ("linear_call", "linear_call in jit") else 1
    loss = lambda x: jnp.sum(jnp.sin(fun(x)))
    looped = lambda x: jnp.sum(lax.scan(lambda c, _: (fun(c), None), x, None, 3)[0])
    x = jnp.asarray(X)
    second = lambda inner, outer, f: outer(lambda x: jnp.sum(jnp.sin(inner(f)(x))))
    for f in (loss, looped):
        expected = jax.grad(f)(x)
        assert_same(funcgrad.grad(f)(x), expected, 1e-11, weak=False)
        assert_same(jax.jit(funcgrad.grad(f))(x), expected, 1e-11, weak=False)
        if orders == 1:
            continue
        expected = jax.jit(second(jax.grad, jax.grad, f))(x)
        for inner, outer in (
            (funcgrad.grad, funcgrad.grad),
            (funcgrad.grad, jax.grad),
            (jax.grad, funcgrad.grad),
        ):
            assert_same(jax.jit(second(inner, outer, f))(x), expected, 1e-11, weak=False)


def test_linear_call_by_what_it_is_not_linear_in():
    """jax.grad refuses this: the cotangent is that of the function's own operations."""

    def fun(r: Any, x: Any, called: bool) -> Any:
        divide = lambda r, x: x / jnp.sin(r)
        y = linear_call(divide, divide, r, x) if called else divide(r, x)
        return jnp.sum(y**3)

    r, x = jnp.arange(1.0, 4.0), jnp.asarray(X)
    ours = lambda r, x: funcgrad.grad(fun, (0, 1))(r, x, True)
    theirs = lambda r, x: jax.grad(fun, (0, 1))(r, x, False)
    assert_same(ours(r, x), theirs(r, x), 1e-11, weak=False)
    assert_same(jax.jit(ours)(r, x), theirs(r, x), 1e-11, weak=False)
    second = lambda cts, r, x: jnp.sum(jnp.sin(cts(r, x)[0]) * cts(r, x)[1])
    assert_same(
        funcgrad.grad(functools.partial(second, ours), (0, 1))(r, x),
        jax.grad(functools.partial(second, theirs), (0, 1))(r, x),
        1e-10,
        weak=False,
    )


def test_custom_root():
    check_program(lambda x: jnp.sum(jnp.sin(root_of_cubic(x)) * x), X)
    ours = funcgrad.grad(lambda x: jnp.sum(root_of_cubic(x)))(jnp.asarray(X))
    np.testing.assert_allclose(ours, 1 / (3 * root_of_cubic(X) ** 2 + 1), rtol=1e-12)


def test_programs_stay_on_the_host():
    """Both programs of a compute_on call are compute_on calls."""
    text = str(jax.make_jaxpr(funcgrad.grad(lambda x: jnp.sum(on_host(x))))(X))
    assert text.count("compute_on[") == 2
    assert text.count("compute_type=device_host") == 2


@pytest.mark.skipif(
    not hasattr(xla_metadata, "xla_metadata_call2"),
    reason=f"JAX {jax.__version__} has no xla_metadata_call2, which comes with 0.12",
)
@pytest.mark.parametrize(
    ("derived", "expected"),
    [("same", ["a", "a"]), ("drop", ["a", ""]), ({"kind": "b"}, ["a", "b"])],
)
def test_metadata_of_the_backward_program(derived, expected):
    fun = xla_metadata.xla_metadata_call2(body, {"kind": "a"}, ad_metadata=derived)
    jaxpr = jax.make_jaxpr(funcgrad.grad(lambda x: jnp.sum(fun(x))))(X)
    found = [
        dict(eqn.params["xla_metadata"]).get("kind", "")
        for eqn in jaxpr.eqns
        if str(eqn.primitive) == "xla_metadata_call"
    ]
    assert found == expected


@pytest.mark.parametrize("call", [jax.jit(body), lambda x: composite(x)], ids=["jit", "composite"])
def test_override_of_the_function_in_a_call(call):
    """The function that a call carries is an op of its own."""
    rules = funcgrad.DEFAULT.override({body: lambda ct, x, **_: 100 * ct})
    ours = funcgrad.grad(lambda x: jnp.sum(call(x)), rules=rules)(jnp.asarray(X))
    assert_same(ours, jnp.full(3, 100.0), weak=False)


def test_calls_in_a_custom_jvp_rule():
    """Applied to tangents, which have no value there."""
    three_times = functools.partial(
        compute_on, compute_type="device_host", out_memory_spaces=jax.memory.Space.Device
    )(lambda t: 3.0 * t)

    @jax.custom_jvp
    def fun(x: Any) -> Any:
        return jnp.sin(x)

    @fun.defjvp
    def fun_jvp(primals: Any, tangents: Any) -> Any:
        (x,), (t,) = primals, tangents
        t = jax.jit(lambda t: t[::-1]).trace(t)(three_times(t))
        return fun(x), xla_metadata.set_xla_metadata(t, kind="tangent") * jnp.cos(x)

    check_program(lambda x: jnp.sum(jnp.sin(fun(x))), X)


# --- functions that jax.grad refuses: compared with their body

composite = lax.composite(body, name="our.body")


@jax.custom_batching.custom_vmap
def tripled(x: Any, y: Any) -> Any:
    """Batched, it is three times as much, so that using the batching rule shows."""
    return jnp.sin(x) * y, jnp.sum(y)


@tripled.def_vmap
def tripled_vmap(size: int, in_batched: Any, x: Any, y: Any) -> Any:
    ys = y if in_batched[1] else jnp.broadcast_to(y, (size, *y.shape))
    return (3 * jnp.sin(x) * y, 3 * jnp.sum(ys, 1)), (True, True)


@jax.custom_batching.sequential_vmap
def one_by_one(x: Any) -> Any:
    return body(x)


@jax.custom_batching.custom_vmap
def reversed_last(x: Any) -> Any:
    return body(x)


@reversed_last.def_vmap
def reversed_last_vmap(size: int, in_batched: Any, x: Any) -> Any:
    return jax.vmap(body)(x), True


def compare(fun: Callable[..., Any], reference: Callable[..., Any], *args: Any) -> None:
    """Gradients of scalar functions: eager, jit, second order."""
    argnums = tuple(range(len(args)))
    args = tuple(map(jnp.asarray, args))

    def second(grad: Any, fun: Any) -> Any:
        scalar = lambda *a: sum(jnp.sum(jnp.sin(ct)) for ct in grad(fun, argnums)(*a))
        return grad(scalar, argnums)

    expected = jax.jit(
        lambda *a: (jax.grad(reference, argnums)(*a), second(jax.grad, reference)(*a))
    )(*args)
    run = lambda *a: (funcgrad.grad(fun, argnums)(*a), second(funcgrad.grad, fun)(*a))
    assert_same(run(*args), expected, 1e-10, weak=False)
    assert_same(jax.jit(run)(*args), expected, 1e-10, weak=False)


def batches(fun: Callable[..., Any]) -> Callable[..., Any]:
    """A scalar of a batch's gradients."""

    def of_batch(x: Any) -> Any:
        return jnp.sum(jax.vmap(lambda x: jnp.sum(jnp.sin(fun(x))))(jnp.outer(jnp.arange(2.0), x)))

    return of_batch


REFUSED = {"composite": composite, "custom_vmap": reversed_last, "sequential_vmap": one_by_one}


@pytest.mark.parametrize("fun", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("place", ["alone", "jit", "scan", "checkpoint", "in a batch"])
def test_what_jax_grad_refuses(fun, place):
    if place == "in a batch" and fun is composite:
        pytest.skip("jax.vmap has no rule for a composite")
    places: dict[str, Any] = {
        "alone": lambda f: lambda x: jnp.sum(jnp.sin(f(x))),
        "jit": lambda f: jax.jit(lambda x: jnp.sum(jnp.sin(f(x) * x))),
        "scan": lambda f: lambda x: jnp.sum(lax.scan(lambda c, _: (f(c), None), x, None, 3)[0]),
        "checkpoint": lambda f: lambda x: jnp.sum(jax.checkpoint(lambda x: jnp.sin(f(x)))(x)),
        "in a batch": batches,
    }
    compare(places[place](fun), places[place](body), X)


@pytest.mark.parametrize("fun", [one_by_one, reversed_last], ids=["sequential", "custom"])
def test_batched_gradient(fun):
    xs = jnp.outer(jnp.arange(1.0, 3.0), X)
    loss = lambda f, x: jnp.sum(jnp.sin(f(x)))
    for order in (lambda g, f: g(f), lambda g, f: g(lambda x: jnp.sum(jnp.sin(g(f)(x))))):
        ours = order(funcgrad.grad, functools.partial(loss, fun))
        theirs = order(jax.grad, functools.partial(loss, body))
        expected = jax.vmap(theirs)(xs)
        assert_same(jax.vmap(ours)(xs), expected, 1e-11, weak=False)
        assert_same(jax.jit(jax.vmap(ours))(xs), expected, 1e-11, weak=False)
        assert_same(jax.vmap(jax.vmap(ours))(xs[None]), expected[None], 1e-11, weak=False)


@pytest.mark.parametrize("in_axes", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("output", [0, 1])
def test_batched_gradient_is_that_of_the_batching_rule(in_axes, output):
    """As with jax.grad over jax.vmap, which JAX can do."""
    x, y = (jnp.outer(jnp.arange(1.0, 3.0), X) if axis == 0 else jnp.asarray(X) for axis in in_axes)
    if in_axes[0] is None:
        x = x[:, None][:, 0]
    fun = lambda x, y: jnp.sum(jnp.sin(tripled(x, y)[output]) * (1 + x[0] * 0))
    plain = lambda x, y: (jnp.sin(x) * y, jnp.sum(y))[output]
    single = lambda x, y: jnp.sum(jnp.sin(3 * plain(x, y)))
    ours = jax.vmap(funcgrad.grad(fun, (0, 1)), in_axes)(x, y)
    expected = jax.vmap(jax.grad(single, (0, 1)), in_axes)(x, y)
    assert_same(ours, expected, 1e-11, weak=False)
    alone = funcgrad.grad(fun, (0, 1))(jnp.asarray(X), jnp.asarray(X))
    assert_same(alone, jax.grad(lambda x, y: jnp.sum(jnp.sin(plain(x, y))), (0, 1))(X, X), 1e-11)


def test_custom_vmap_that_closes_over_a_differentiated_value():
    def loss(x: Any, w: Any, wrap: Any) -> Any:
        fun = wrap(lambda x: jnp.sin(x) * w)
        if wrap is not _plain:
            fun.def_vmap(lambda size, in_batched, x: (jnp.sin(x) * 2.0, True))
        return jnp.sum(jnp.sin(fun(x)))

    args = jnp.asarray(X), jnp.asarray(2.0)
    wrap = jax.custom_batching.custom_vmap
    ours = lambda x, w: funcgrad.grad(loss, (0, 1))(x, w, wrap)
    theirs = lambda x, w: jax.grad(loss, (0, 1))(x, w, _plain)
    assert_same(ours(*args), theirs(*args), 1e-11, weak=False)
    xs = jnp.outer(jnp.arange(1.0, 3.0), X)
    assert_same(
        jax.vmap(ours, (0, None))(xs, args[1]),
        jax.vmap(theirs, (0, None))(xs, args[1]),
        1e-11,
        weak=False,
    )


def _plain(fun: Any) -> Any:
    return fun


def test_a_composite_stays_one():
    """The forward program has the user's composite, with its one output."""
    jaxpr = jax.make_jaxpr(funcgrad.grad(lambda x: jnp.sum(composite(x))))(X)
    (eqn,) = [eqn for eqn in jaxpr.eqns if str(eqn.primitive) == "composite"]
    assert eqn.params["name"] == "our.body"
    assert len(eqn.outvars) == 1


def test_composite_with_attributes_and_trees():
    fun = functools.partial(lax.composite, name="our.scaled")(
        lambda tree, /, *, scale: {"y": scale * jnp.sin(tree["x"]) * tree["n"]}
    )
    loss = lambda x: jnp.sum(fun({"x": x, "n": jnp.arange(3)}, scale=2.0)["y"])
    expected = 2 * np.cos(X) * np.arange(3)
    assert_same(funcgrad.grad(loss)(jnp.asarray(X)), jnp.asarray(expected), 1e-12)


def test_exported_function():
    """It brings its own derivative, as a custom_vjp."""
    exported = jax.export.export(jax.jit(body))(jax.ShapeDtypeStruct(X.shape, X.dtype))
    loss = lambda x: jnp.sum(jnp.sin(exported.call(x)))
    expected = jax.grad(lambda x: jnp.sum(jnp.sin(body(x))))(jnp.asarray(X))
    assert_same(funcgrad.grad(loss)(jnp.asarray(X)), expected, 1e-11, weak=False)
    assert_same(jax.jit(funcgrad.grad(loss))(jnp.asarray(X)), expected, 1e-11, weak=False)


def test_custom_partitioning():
    """jax.grad refuses it; on one device it is its body."""
    fun = custom_partitioning(body)
    fun.def_partition(
        infer_sharding_from_operands=None,
        partition=lambda mesh, args, result: (mesh, body, result.sharding, [args[0].sharding]),
        sharding_rule="i -> i",
    )
    ours = jax.jit(funcgrad.grad(lambda x: jnp.sum(jnp.sin(fun(x)))))(jnp.asarray(X))
    expected = jax.grad(lambda x: jnp.sum(jnp.sin(body(x))))(jnp.asarray(X))
    assert_same(ours, expected, 1e-11, weak=False)


@pytest.mark.parametrize("place", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_custom_vjp_with_optimize_remat(place):
    """Its forward is one call, differentiated to second order by us (JAX refuses that)."""

    @jax.custom_vjp
    def cube(x: Any) -> Any:
        return x**3

    def plain(x: Any) -> Any:
        return x**3

    cube.defvjp(lambda x: (x**3, 3 * x**2), lambda r, ct: (r * ct,), optimize_remat=True)
    compare(
        lambda x: jnp.sum(jnp.sin(place(lambda x: cube(x) * x)(x))),
        lambda x: jnp.sum(jnp.sin(place(lambda x: plain(x) * x)(x))),
        X,
    )


def test_the_calls_are_what_they_are_named():
    """The tables test the primitives that they are for."""
    named = {str(p) for f in {**FUNCTIONS, **UNBATCHED}.values() for p in primitives_in(f, X)}
    named |= {str(p) for f in (composite, one_by_one) for p in primitives_in(f, X)}
    assert {"linear_call", "compute_on", "composite", "custom_vmap_call"} <= named
    if jax.__version_info__ >= (0, 12):
        assert {"eval_jaxpr", "xla_metadata_call", "program_order"} <= named
