"""Numbers inside custom derivatives and shard_maps, against JAX and the function without the call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import funcgrad
from funcgrad import at, errors
from funcgrad.inspect import graph
from tests.inspect.graphs.models import X
from tests.meshes import mesh_of


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def inside(found, op):
    """The output of the only operation of this name, at any depth."""
    (output,) = [node.outputs[0] for node in found.walk() if node.op.name == op]
    return output


# --- custom derivatives


@jax.custom_vjp
def clipped(x):
    return jnp.sin(x)


clipped.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (jnp.clip(ct, -0.1, 0.1),))


@jax.custom_jvp
def sloped(x):
    return jnp.sin(x)


@sloped.defjvp
def sloped_jvp(primals, tangents):
    return sloped(*primals), tangents[0] * 0.1


@pytest.mark.parametrize("fun", [clipped, sloped])
def test_values_in_a_custom_derivative_are_those_of_its_function(fun):
    found = graph(lambda x: jnp.sum(fun(x * 2)) * 3, X)
    sine = inside(found, "sin")
    close(sine.value, jnp.sin(X * 2))
    assert sine.gradient is None
    assert not sine.maker.is_pulled
    close(found.inputs[0].gradient, jax.grad(lambda x: jnp.sum(fun(x * 2)) * 3)(X))
    assert "has a cotangent" in found.to_svg(view=1)


def test_values_in_a_custom_derivative_in_a_scan_have_its_steps():
    found = graph(lambda x: lax.scan(lambda c, _: (clipped(c), c), x, length=3)[0].sum(), X)
    steps = [jnp.sin(X), jnp.sin(jnp.sin(X)), jnp.sin(jnp.sin(jnp.sin(X)))]
    close(inside(found, "sin").value, jnp.stack(steps))


def test_a_function_with_a_rule_of_its_own_is_run_beside_it():
    def double(x):
        return jnp.exp(x)

    rules = funcgrad.DEFAULT.override({double: lambda ct, x, *, out: ct * 2})
    found = graph(lambda x: double(x).sum(), X, rules=rules)
    close(inside(found, "exp").value, jnp.exp(X))
    close(found.inputs[0].gradient, jnp.full(3, 2.0))


def test_a_function_with_an_effect_is_not_run_beside_its_derivative():
    calls = []

    @jax.custom_vjp
    def told(x):
        jax.debug.callback(calls.append, x)
        return jnp.sin(x)

    told.defvjp(lambda x: (jnp.sin(x), x), lambda x, ct: (ct * jnp.cos(x),))
    found = graph(lambda x: told(x).sum(), X)
    jax.effects_barrier()
    assert not calls
    assert inside(found, "sin").value is None
    close(found.inputs[0].gradient, jnp.cos(X))


# --- shard_map

ROWS = jnp.arange(24.0).reshape(8, 3) / 24
WEIGHTS = jnp.arange(6.0).reshape(3, 2) / 6


def loss_on(mesh, check_vma):
    def body(w, x):
        h = jnp.tanh(x @ w)
        return lax.psum(jnp.sum(h**2), "rows")

    specs = PartitionSpec(), PartitionSpec("rows")
    return jax.shard_map(
        body, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=check_vma
    )


@pytest.mark.parametrize(
    ("kind", "check_vma"),
    [(AxisType.Auto, True), (AxisType.Explicit, True), (AxisType.Auto, False)],
    ids=["auto", "explicit", "without check_vma"],
)
def test_values_and_cotangents_in_a_shard_map_are_those_of_each_device(kind, check_vma):
    mesh = mesh_of(kind, rows=4, others=2)
    x = jax.device_put(ROWS, NamedSharding(mesh, PartitionSpec("rows")))
    found = graph(loss_on(mesh, check_vma), WEIGHTS, x)
    h = inside(found, "tanh")
    expected = jnp.tanh(ROWS @ WEIGHTS).reshape(4, 2, 2)
    copies = 1 if check_vma else 2  # the two devices of a row compute the same
    assert h.axes == ("device",)
    close(h.value, np.repeat(expected, copies, 0))
    close(h.gradient, np.repeat(2 * expected, copies, 0) / copies)
    plain = lambda w, x: jnp.sum(jnp.tanh(x @ w) ** 2)
    close(found.inputs[0].gradient, jax.grad(plain)(WEIGHTS, ROWS))
    (w, _) = next(node for node in found.nodes if node.graphs).graphs[0].inputs
    close(w.value, np.broadcast_to(WEIGHTS, (1 if check_vma else 8, 3, 2)))
    close(jnp.sum(w.gradient, 0), jax.grad(plain)(WEIGHTS, ROWS))
    context = {node.op.name: [what for _, what in node.context] for node in found.walk()}
    assert context["tanh"] == ["output 0"]
    assert all(context[name] == [] for name in context if name.startswith(("psum", "pvary")))


@pytest.mark.slow
def test_a_shard_map_in_a_scan_has_axes_for_steps_and_devices():
    mesh = mesh_of(rows=4)
    spec = PartitionSpec("rows")
    body = jax.shard_map(
        lambda w, h: jnp.sin(h * w), mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec
    )

    def fun(ws, h):
        return jnp.sum(lax.scan(lambda h, w: (body(w, h), None), h, ws)[0])

    ws, h = jnp.array([0.5, 2.0]), jnp.arange(4.0)
    sine = inside(found := graph(fun, ws, h), "sin")
    assert sine.axes == ("step", "device")
    first = jnp.sin(h * 0.5)
    close(sine.value[..., 0], jnp.stack([first, jnp.sin(first * 2)]))
    slope = jax.grad(lambda h: jnp.sum(jnp.sin(h * 2)))(first)
    close(sine.gradient[..., 0], jnp.stack([slope, jnp.ones(4)]))
    close(found.inputs[1].gradient, sine.maker.inputs[0].maker.inputs[0].gradient[0, :, 0])
    assert "step 2, device 4" in found.to_svg(view=2)


def test_what_may_run_on_some_devices_alone_has_no_numbers():
    spec = PartitionSpec("rows")
    body = lambda x: lax.cond(x[0] > 1, jnp.sin, jnp.cos, x)
    mapped = jax.shard_map(body, mesh=mesh_of(rows=4), in_specs=spec, out_specs=spec)
    found = graph(lambda x: jnp.sum(mapped(x)), jnp.arange(4.0))
    assert inside(found, "sin").value is None
    close(found.results[0].value, 1 + jnp.cos(1.0) + jnp.sin(2.0) + jnp.sin(3.0))


# --- vmapped loops


def root(a):
    """Newton's method."""
    return lax.while_loop(lambda x: jnp.abs(x * x - a) > 1e-4, lambda x: (x + a / x) / 2, a)


def roots(a):
    return jnp.sum(jax.vmap(root)(a))


def test_a_vmapped_loop_has_no_numbers_inside_and_says_why():
    a = jnp.array([4.0, 9.0, 100.0])
    found = graph(roots, a)
    close(found.inputs[0].gradient, 1 / (2 * jnp.sqrt(a)))
    (loop,) = [node for node in found.nodes if node.graphs]
    assert all(t.value is None for t in loop.graphs[0].tensors if t.kind != "literal")
    assert "examples of a vmapped loop end at different steps" in found.to_svg(view=1)


def test_a_vmapped_loop_can_be_a_row_of_a_flow_and_not_be_tapped_inside():
    a = jnp.array([4.0, 9.0, 100.0])
    (row,) = funcgrad.inspect.flow(roots, a).rows()
    close(row["value_norm"], jnp.linalg.norm(jnp.sqrt(a)))
    with pytest.raises(errors.EditError, match="examples end at different steps"):
        funcgrad.grad(roots, taps={"quotient": at(op="div")})(a)
