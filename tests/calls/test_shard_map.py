"""shard_map on eight virtual devices: gradients of sharded programs, and gradients inside them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import funcgrad
from tests.compare import assert_same
from tests.meshes import mesh_of, sharded
from tests.rules.cases import normal

CHECKED = pytest.mark.parametrize("check_vma", [True, False], ids=["checked", "unchecked"])


@pytest.fixture(autouse=True)
def _double() -> Any:
    with jax.enable_x64(True):
        yield


def arrays(*shapes: tuple[int, ...]) -> list[Any]:
    return [jnp.asarray(normal(*shape, seed=seed)) for seed, shape in enumerate(shapes)]


def assert_gradients(loss: Any, unsharded: Any, args: Any, eager: bool = True) -> None:
    """Ours equals JAX's and that of the program on whole arrays, in one jit; outside, if `eager`."""
    argnums = tuple(range(len(args)))

    def every(*args: Any) -> Any:
        return [jax.grad(loss, argnums)(*args)] + [
            funcgrad.grad(fn, argnums)(*args) for fn in (loss, jax.jit(loss))
        ]

    expected, ours, of_jit = jax.jit(every)(*args)
    if unsharded is not None:
        assert_same(expected, jax.jit(jax.grad(unsharded, argnums))(*args))
    assert_same(ours, expected)
    assert_same(of_jit, expected)
    if eager:
        assert_same(funcgrad.grad(jax.jit(loss), argnums)(*args), expected)
        assert_same(funcgrad.grad(loss, argnums)(*args), expected)


def sum_over_devices(body: Callable[..., Any], check_vma: bool, **settings: Any) -> Any:
    """The sum over devices of a scalar of a shard of `x` and of all of `w`."""

    def loss(x: Any, w: Any) -> Any:
        return lax.psum(body(x, w), "i")

    return sharded(loss, (P("i"), P()), P(), check_vma, **settings)


# --- programs -------------------------------------------------------------------------------


@CHECKED
def test_data_parallel(check_vma: bool) -> None:
    def local(x: Any, w: Any) -> Any:
        return jnp.sum(jnp.tanh(x @ w) ** 2)

    loss = sum_over_devices(local, check_vma, mesh=mesh_of(i=8))
    assert_gradients(loss, local, arrays((16, 3), (3, 4)))


@CHECKED
def test_tensor_parallel(check_vma: bool) -> None:
    def layers(x: Any, w: Any, v: Any, total: Any) -> Any:
        return jnp.sin(total(jnp.tanh(x @ w) @ v))

    def loss(x: Any, w: Any, v: Any) -> Any:
        body = sharded(
            lambda *xs: layers(*xs, lambda y: lax.psum(y, "model")),
            (P("data"), P(None, "model"), P("model")),
            P("data"),
            check_vma,
            mesh_of(data=4, model=2),
        )
        return jnp.mean(body(x, w, v) ** 2)

    def unsharded(x: Any, w: Any, v: Any) -> Any:
        return jnp.mean(layers(x, w, v, lambda y: y) ** 2)

    assert_gradients(loss, unsharded, arrays((8, 3), (3, 4), (4, 2)))


@CHECKED
def test_ring(check_vma: bool) -> None:
    """Every device meets every shard of y, which go round."""
    ring = [(i, (i + 1) % 4) for i in range(4)]

    def body(x: Any, y: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            total, y = carry
            return (total + jnp.sin(x @ y.T).sum(1), lax.ppermute(y, "i", ring)), None

        return lax.scan(step, (0.0 * x[:, 0], y), None, length=4)[0][0]

    def loss(x: Any, y: Any) -> Any:
        return jnp.sum(sharded(body, P("i"), P("i"), check_vma)(x, y) ** 2)

    def unsharded(x: Any, y: Any) -> Any:
        return jnp.sum(jnp.sin(x @ y.T).sum(1) ** 2)

    assert_gradients(loss, unsharded, arrays((8, 3), (4, 3)), eager=False)


@CHECKED
def test_fully_sharded_parameters(check_vma: bool) -> None:
    def body(x: Any, w: Any) -> Any:
        whole = lax.all_gather(w, "i", tiled=True)
        y = jnp.tanh(x @ whole)
        return lax.psum_scatter(jnp.sum(y, 0), "i", tiled=True)

    def loss(x: Any, w: Any) -> Any:
        return jnp.sum(sharded(body, P("i"), P("i"), check_vma)(x, w) ** 2)

    def unsharded(x: Any, w: Any) -> Any:
        return jnp.sum(jnp.sum(jnp.tanh(x @ w), 0) ** 2)

    assert_gradients(loss, unsharded, arrays((8, 4), (4, 8)), eager=check_vma)


@CHECKED
def test_mixture_of_experts(check_vma: bool) -> None:
    """Tokens go to the device of their expert and come back."""

    def body(x: Any, w: Any) -> Any:
        sent = lax.all_to_all(x, "i", 0, 0, tiled=True)
        return lax.all_to_all(jnp.tanh(sent @ w[0]), "i", 0, 0, tiled=True)

    def loss(x: Any, w: Any) -> Any:
        return jnp.sum(jnp.sin(sharded(body, P("i"), P("i"), check_vma)(x, w)) ** 2)

    def unsharded(x: Any, w: Any) -> Any:
        tokens = x.reshape(4, 4, -1)
        return jnp.sum(jnp.sin(jnp.tanh(jnp.einsum("det,etu->deu", tokens, w))) ** 2)

    assert_gradients(loss, unsharded, arrays((16, 3), (4, 3, 2)), eager=check_vma)


# --- what stands in the body ----------------------------------------------------------------


@jax.custom_vjp
def cube(x: Any) -> Any:
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, ct: (3 * x**2 * ct,))


@jax.custom_jvp
def square(x: Any) -> Any:
    return x * x


square.defjvp(lambda primals, tangents: (square(*primals), 2 * primals[0] * tangents[0]))


def scanned(x: Any, w: Any) -> Any:
    def step(carry: Any, row: Any) -> Any:
        carry = jnp.tanh(carry + row @ w)
        return carry, carry

    return jnp.sum(lax.scan(step, x[0, 0] + jnp.zeros(4), x)[1] ** 2)


BODIES = {
    "jit": lambda x, w: jax.jit(lambda x, w: jnp.sum(jnp.sin(x @ w)))(x, w),
    "relu": lambda x, w: jnp.sum(jax.nn.relu(x @ w) ** 2),
    "log_softmax": lambda x, w: jnp.sum(jax.nn.log_softmax(x @ w)[:, 1]),
    "scan": scanned,
    "cond": lambda x, w: lax.cond(
        jnp.sum(x) > 0, lambda: jnp.sum(jnp.sin(x @ w)), lambda: jnp.sum(x[0, 0] * w)
    ),
    "checkpoint": lambda x, w: jnp.sum(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ w)))(x)),
    "custom_vjp": lambda x, w: jnp.sum(cube(x @ w)),
    "custom_vjp of what is whole": lambda x, w: jnp.sum(x @ cube(w)),
    "custom_jvp": lambda x, w: jnp.sum(square(x @ w)),
    "vmap": lambda x, w: jnp.sum(jax.vmap(lambda row: jnp.sin(row @ w) * row[0])(x)),
    "indexing": lambda x, w: jnp.sum(jnp.sin(x[1, 1:] * w[0, 0]).at[0].set(x[0, 0])),
    "sort": lambda x, w: jnp.sum(jnp.sort(x @ w, 1)[:, :2]),
    "scalars": lambda x, w: jnp.sin(jnp.sum(x)) * jnp.cos(jnp.sum(w)) * jnp.sin(jnp.sum(x * x)),
}


@CHECKED
@pytest.mark.parametrize("name", BODIES)
def test_body(name: str, check_vma: bool) -> None:
    loss = sum_over_devices(BODIES[name], check_vma)

    def unsharded(x: Any, w: Any) -> Any:
        return sum(BODIES[name](shard, w) for shard in jnp.split(x, 4))

    assert_gradients(loss, unsharded, arrays((8, 3), (3, 4)), eager=name == "relu")


@CHECKED
def test_closed_over_values_are_differentiated(check_vma: bool) -> None:
    def loss(x: Any, w: Any, scale: Any) -> Any:
        body = sharded(lambda x: jnp.sin(x @ w) * scale, P("i"), P("i"), check_vma)
        return jnp.sum(body(x) ** 2)

    def unsharded(x: Any, w: Any, scale: Any) -> Any:
        return jnp.sum((jnp.sin(x @ w) * scale) ** 2)

    assert_gradients(loss, unsharded, [*arrays((8, 3), (3, 2)), jnp.float64(1.3)])


@CHECKED
def test_only_closed_over_values_are_differentiated(check_vma: bool) -> None:
    x, w = arrays((8, 3), (3, 2))

    def loss(w: Any) -> Any:
        return jnp.sum(sharded(lambda x: jnp.sin(x @ w), P("i"), P("i"), check_vma)(x))

    assert_same(funcgrad.grad(loss)(w), jax.grad(lambda w: jnp.sum(jnp.sin(x @ w)))(w))


@CHECKED
def test_outputs_without_and_with_a_gradient(check_vma: bool) -> None:
    def body(x: Any) -> Any:
        return {"sign": x > 0, "value": jnp.sin(x), "unused": jnp.exp(x), "constant": jnp.ones(2)}

    def loss(x: Any) -> Any:
        specs = {"sign": P("i"), "value": P("i"), "unused": P("i"), "constant": P()}
        outs = sharded(body, P("i"), specs, check_vma)(x)
        return jnp.sum(jnp.where(outs["sign"], outs["value"], 2 * x)) * jnp.sum(outs["constant"])

    assert_gradients(loss, None, arrays((8,)))


def test_eager_body_may_look_at_values_that_all_devices_have() -> None:
    def body(x: Any, w: Any) -> Any:
        return jnp.sin(x) * w if jnp.sum(w) > 0 else jnp.cos(x) * w

    for w in (2.0, -2.0):
        args = [*arrays((8,)), jnp.float64(w)]
        loss = sharded(body, (P("i"), P()), P("i"))
        expected = jax.grad(lambda x, w: jnp.sum((jnp.sin if w > 0 else jnp.cos)(x) * w), (0, 1))
        ours = funcgrad.grad(lambda x, w: jnp.sum(loss(x, w)), (0, 1))(*args)  # noqa: B023
        assert_same(ours, expected(*args))


# --- transforms -----------------------------------------------------------------------------


@CHECKED
def test_transforms(check_vma: bool) -> None:
    x, w = arrays((4, 3), (3, 2))
    loss = sum_over_devices(lambda x, w: jnp.sum(jnp.sin(x @ w) * x[0, 0]), check_vma)

    def norm(grad: Any) -> Any:
        return lambda x, w: sum(jnp.sum(ct**3) for ct in grad(loss, (0, 1))(x, w))

    expected = jax.jit(jax.grad(norm(jax.grad), (0, 1)))(x, w)
    for inner in (funcgrad.grad, jax.grad):
        assert_same(jax.jit(funcgrad.grad(norm(inner), (0, 1)))(x, w), expected)
    assert_same(jax.jit(jax.grad(norm(funcgrad.grad), (0, 1)))(x, w), expected)

    xs = jnp.stack([x, 2 * x])
    vmapped = [jax.jit(jax.vmap(grad(loss), (0, None))) for grad in (funcgrad.grad, jax.grad)]
    assert_same(*(f(xs, w) for f in vmapped))
    pushed = [
        jax.jit(functools.partial(jax.jvp, grad(loss)))((x, w), (x, w))
        for grad in (funcgrad.grad, jax.grad)
    ]
    assert_same(*pushed)
    assert_same(jax.jit(funcgrad.hessian(loss, 1))(x, w), jax.jit(jax.hessian(loss, 1))(x, w))


@CHECKED
def test_jacobian(check_vma: bool) -> None:
    body = sharded(lambda x: jnp.sin(x) * lax.psum(jnp.sum(x), "i"), P("i"), P("i"), check_vma)
    (x,) = arrays((4,))
    assert_same(jax.jit(funcgrad.jacrev(body))(x), jax.jit(jax.jacrev(body))(x))


@CHECKED
def test_under_vmap_scan_and_checkpoint(check_vma: bool) -> None:
    loss = sum_over_devices(lambda x, w: jnp.sum(jnp.sin(jnp.sin(x @ w))), check_vma)

    def looped(x: Any, w: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            body = sharded(lambda c, w: jnp.sin(c) @ w @ w.T, (P("i"), P()), P("i"), check_vma)
            carry = body(carry, w)
            return carry, jnp.sum(carry)

        return jnp.sum(lax.scan(step, x, None, length=3)[1])

    args = arrays((4, 3), (3, 2))
    assert_gradients(jax.checkpoint(loss), None, args, eager=False)
    assert_gradients(lambda x, w: jax.vmap(loss, (None, 0))(x, w[None]).sum(), None, args, False)
    assert_gradients(looped, None, args, eager=False)


@CHECKED
@pytest.mark.parametrize("how", ["by hand", "from outside"])
def test_gradient_inside(check_vma: bool, how: str) -> None:
    """A data-parallel step. JAX sums over devices by itself where it tracks what varies."""
    x, w = arrays((8, 3), (3, 4))

    def step(grad: Any) -> Any:
        def body(x: Any, w: Any) -> Any:
            ct_w = grad(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(w)
            return w - 0.1 * (ct_w / 4 if check_vma else lax.pmean(ct_w, "i"))

        return sharded(body, (P("i"), P()), P(), check_vma)

    def new_loss(grad: Any) -> Any:
        return lambda x, w: jnp.sum(jnp.sin(step(grad)(x, w)))

    if how == "by hand":
        expected = w - 0.1 * jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(w)
        assert_same(jax.jit(step(funcgrad.grad))(x, w), expected)
        assert_same(step(funcgrad.grad)(x, w), expected)
        return
    expected = jax.jit(jax.grad(new_loss(jax.grad), (0, 1)))(x, w)
    assert_same(jax.jit(funcgrad.grad(new_loss(funcgrad.grad), (0, 1)))(x, w), expected)
    assert_same(jax.jit(jax.grad(new_loss(funcgrad.grad), (0, 1)))(x, w), expected)


# --- meshes ---------------------------------------------------------------------------------


@CHECKED
def test_partially_manual(check_vma: bool) -> None:
    def body(x: Any, w: Any) -> Any:
        return jnp.sin(lax.psum(jnp.tanh(x @ w), "i")) * jnp.sum(w)

    mesh = mesh_of(i=4, j=2)

    def loss(x: Any, w: Any) -> Any:
        in_specs = (P("i"), P())
        return jnp.sum(sharded(body, in_specs, P(), check_vma, mesh, axis_names={"i"})(x, w) ** 2)

    x, w = arrays((8, 3), (3, 4))
    args = [x, jax.device_put(w, NamedSharding(mesh, P(None, "j")))]
    assert_gradients(loss, None, args, eager=check_vma)


@CHECKED
def test_nested(check_vma: bool) -> None:
    def inner(x: Any, w: Any) -> Any:
        return jnp.sin(x @ w) * jnp.sum(w)

    def outer(x: Any, w: Any) -> Any:
        columns = jax.shard_map(
            inner,
            in_specs=(P(), P(None, "j")),
            out_specs=P(None, "j"),
            axis_names={"j"},
            check_vma=check_vma,
        )
        return columns(x, w) * jnp.sum(x)

    def loss(x: Any, w: Any) -> Any:
        mesh = mesh_of(i=4, j=2)
        in_specs = (P("i"), P())
        mapped = sharded(outer, in_specs, P("i"), check_vma, mesh, axis_names={"i"})
        return jnp.sum(mapped(x, w))

    def unsharded(x: Any, w: Any) -> Any:
        blocks = [(a, b) for a in jnp.split(x, 4) for b in jnp.split(w, 2, 1)]
        return sum(jnp.sum(inner(a, b)) * jnp.sum(a) for a, b in blocks)

    args = arrays((8, 3), (3, 4))
    ours = jax.jit(funcgrad.grad(loss, (0, 1)))(*args)
    assert_same(ours, jax.grad(unsharded, (0, 1))(*args))


def test_mesh_from_the_context() -> None:
    def loss(x: Any) -> Any:
        return jnp.sum(jax.shard_map(jnp.sin, in_specs=P("i"), out_specs=P("i"))(x) ** 2)

    (x,) = arrays((8,))
    with jax.set_mesh(mesh_of(i=8)):
        assert_gradients(loss, lambda x: jnp.sum(jnp.sin(x) ** 2), [x])


def mlp_loss(params: Any, x: Any) -> Any:
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    return jnp.mean(jax.nn.softmax(hidden @ params["v"]) ** 2)


@pytest.mark.parametrize("how", ["in jit", "of jit", "outside"])
def test_gradients_keep_the_sharding_of_parameters(how: str) -> None:
    mesh = mesh_of(i=4, j=2)
    specs = {"w": P(None, "j"), "b": P("j"), "v": P("j", None)}
    values = dict(zip(("w", "b", "v"), arrays((8, 16), (16,), (16, 4)), strict=True))
    params = {k: jax.device_put(values[k], NamedSharding(mesh, specs[k])) for k in specs}
    x = jax.device_put(normal(16, 8), NamedSharding(mesh, P("i")))
    forms = {
        "in jit": lambda grad: jax.jit(grad(mlp_loss)),
        "of jit": lambda grad: grad(jax.jit(mlp_loss)),
        "outside": lambda grad: grad(mlp_loss),
    }
    ours, theirs = (forms[how](grad)(params, x) for grad in (funcgrad.grad, jax.grad))
    assert_same(ours, theirs)
    for name, ct in ours.items():
        assert ct.sharding.is_equivalent_to(theirs[name].sharding, ct.ndim), name


def of(*spec: Any, shape: tuple[int, ...]) -> Any:
    return shape, P(*spec)


EXPLICIT: dict[str, tuple[Any, ...]] = {
    "dot": (lambda x, w: x @ w, of("i", None, shape=(8, 4)), of(None, "j", shape=(4, 6))),
    "dot over a sharded axis": (
        lambda x, w: jnp.einsum("ab,bc->ac", x, w, out_sharding=P("i", None)),
        of("i", "j", shape=(8, 4)),
        of("j", None, shape=(4, 3)),
    ),
    "batched dot": (
        lambda x, y: jnp.einsum("bqd,bkd->bqk", x, y),
        of("i", "j", None, shape=(4, 2, 3)),
        of("i", None, None, shape=(4, 2, 3)),
    ),
    "convolution": (
        lambda x, k: lax.conv_general_dilated(x, k, (1,), "SAME"),
        of("i", None, None, shape=(4, 2, 5)),
        of(None, None, None, shape=(3, 2, 3)),
    ),
    "sum": (lambda x: jnp.sum(x, 1), of("i", "j", shape=(4, 2))),
    "max": (lambda x: jnp.max(x, 1), of("i", None, shape=(4, 3))),
    "reshape": (lambda x: x.reshape(4, 2, 3), of("i", None, shape=(4, 6))),
    "transpose": (lambda x: x.T * 2, of("i", "j", shape=(4, 2))),
    "bias": (lambda x, b: x + b, of("i", "j", shape=(4, 2)), of("j", shape=(2,))),
    "slice": (lambda x: x[:, 1:3], of("i", None, shape=(4, 4))),
    "split": (lambda x: jnp.split(x, 2, 1)[0], of("i", None, shape=(4, 4))),
    "concatenate": (
        lambda x, y: jnp.concatenate([x, y], 1),
        of("i", None, shape=(4, 1)),
        of("i", None, shape=(4, 2)),
    ),
    "dynamic slice": (
        lambda x: lax.dynamic_slice_in_dim(x, jnp.int32(1), 2, 1),
        of("i", None, shape=(4, 4)),
    ),
    "dynamic update": (
        lambda x, y: lax.dynamic_update_slice(x, y, (0, 1)),
        of("i", None, shape=(4, 4)),
        of("i", None, shape=(4, 2)),
    ),
    "softmax": (jax.nn.softmax, of("i", None, shape=(4, 3))),
    "reshard": (lambda x: jax.sharding.reshard(x, P(None, "i")), of("i", None, shape=(4, 4))),
    "scan": (
        lambda x, w: lax.scan(lambda c, _: (jnp.tanh(c @ w), c), x, None, length=3)[1],
        of("i", None, shape=(4, 3)),
        of(None, None, shape=(3, 3)),
    ),
    "shard_map": (
        jax.shard_map(
            lambda x, w: jnp.sin(x @ w),
            in_specs=(P("i", None), P(None, "j")),
            out_specs=P("i", "j"),
        ),
        of("i", None, shape=(4, 3)),
        of(None, "j", shape=(3, 2)),
    ),
}


@pytest.mark.parametrize("name", EXPLICIT)
@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
def test_shardings_that_are_part_of_types(name: str, jitted: bool) -> None:
    fn, *operands = EXPLICIT[name]

    def loss(*xs: Any) -> Any:
        return jnp.sum(jnp.sin(fn(*xs)))

    mesh = mesh_of(AxisType.Explicit, i=4, j=2)
    wrap: Any = jax.jit if jitted else lambda f: f
    with jax.set_mesh(mesh):
        args = [
            jax.device_put(x, NamedSharding(mesh, spec))
            for x, (_, spec) in zip(arrays(*(s for s, _ in operands)), operands, strict=True)
        ]
        argnums = tuple(range(len(args)))
        ours, theirs = (wrap(grad(loss, argnums))(*args) for grad in (funcgrad.grad, jax.grad))
        assert_same(ours, theirs)
        for ct, expected in zip(ours, theirs, strict=True):
            assert jax.typeof(ct).sharding == jax.typeof(expected).sharding


# --- what is kept ---------------------------------------------------------------------------


def test_inputs_and_outputs_are_not_kept_again() -> None:
    """The forward shard_map gives out what the rules read and cannot be had otherwise: nothing."""

    def loss(x: Any, w: Any) -> Any:
        return jnp.sum(sharded(lambda x, w: jnp.tanh(x @ w), (P("i"), P()), P("i"))(x, w))

    x, w = arrays((8, 3), (3, 4))
    jaxpr = jax.make_jaxpr(funcgrad.grad(loss, (0, 1)))(x, w)
    forward, backward = (e for e in jaxpr.eqns if e.primitive.name == "shard_map")
    assert len(forward.outvars) <= 2  # the output, and w made varying
    assert len(backward.outvars) == 2


def test_a_tangent_rule_that_maps_over_shards_says_what_is_missing() -> None:
    mapped = sharded(jnp.sin, P("i"), P("i"))

    @jax.custom_jvp
    def f(x: Any) -> Any:
        return x

    f.defjvp(lambda primals, tangents: (primals[0], mapped(tangents[0])))
    with pytest.raises(funcgrad.errors.MissingRuleError, match="shard_map"):
        funcgrad.grad(lambda x: jnp.sum(f(x)))(np.ones(4))
