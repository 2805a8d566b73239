"""Numbers of a flow against plain numpy and jax.grad, in every kind of function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from funcgrad import at, errors
from funcgrad.inspect import flow, value_grad_and_flow

KEYS = jax.random.split(jax.random.key(0), 8)
X = jax.random.normal(KEYS[0], (32, 4))
STACK = {"w": jax.random.normal(KEYS[1], (3, 4, 4)), "b": jnp.full((3, 4), 0.1)}
PARAMS = {"layers": STACK, "out": jax.random.normal(KEYS[2], (4,))}
WRAP = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])


def unrolled(params, x, add=(0.0, 0.0, 0.0)):
    """Three layers; `add` is added to what leaves each, for the cotangents of jax.grad."""
    for i in range(3):
        with jax.named_scope(f"layer_{i}"):
            x = jax.nn.relu(x @ params["layers"]["w"][i] + params["layers"]["b"][i])
        x = x + add[i]
    return jnp.mean((x @ params["out"]) ** 2)


def scanned(params, x):
    def layer(x, p):
        with jax.named_scope("layer"):
            return jax.nn.relu(x @ p["w"] + p["b"]), None

    return jnp.mean((lax.scan(layer, x, params["layers"])[0] @ params["out"]) ** 2)


def values_of_layers():
    x, found = np.asarray(X), []
    for w, b in zip(np.asarray(STACK["w"]), np.asarray(STACK["b"]), strict=True):
        x = np.maximum(x @ w + b, 0)
        found.append(x)
    return found


def cotangents_of_layers():
    return jax.grad(unrolled, 2)(PARAMS, X, tuple(jnp.zeros(X.shape) for _ in range(3)))


def same(row, name, x):
    """A row's numbers of a value are those that numpy finds."""
    x = np.asarray(x, np.float64)
    assert row[f"{name}_norm"] == pytest.approx(np.linalg.norm(x), rel=1e-5)
    assert row[f"{name}_rms"] == pytest.approx(np.sqrt(np.mean(x**2)), rel=1e-5)
    assert row[f"{name}_mean"] == pytest.approx(np.mean(x), rel=1e-4, abs=1e-7)
    assert row[f"{name}_zeros"] == pytest.approx(np.mean(x == 0), abs=1e-6)


@WRAP
@pytest.mark.parametrize("loss", [unrolled, scanned], ids=lambda f: f.__name__)
def test_values_and_cotangents(loss, wrap):
    value, gradient, found = wrap(value_grad_and_flow(loss))(PARAMS, X)
    expected, expected_gradient = jax.value_and_grad(loss)(PARAMS, X)
    assert value == pytest.approx(float(expected), rel=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gradient, expected_gradient
    )
    names = [f"layer_{i}" if loss is unrolled else f"layer[{i}]" for i in range(3)]
    assert [row["layer"] for row in found.rows() if "value_norm" in row] == names
    for name, x, ct in zip(names, values_of_layers(), cotangents_of_layers(), strict=True):
        same(found[name], "value", x)
        same(found[name], "cotangent", ct)


@WRAP
def test_gradients_of_stacked_parameters_are_those_of_each_layer(wrap):
    found = wrap(value_grad_and_flow(scanned))(PARAMS, X)[2]
    gradient = jax.grad(scanned)(PARAMS, X)
    for i in range(3):
        both = np.concatenate([np.ravel(gradient["layers"][k][i]) for k in ("w", "b")])
        same(found[f"layer[{i}]"], "gradient", both)
        weights = np.concatenate([np.ravel(STACK[k][i]) for k in ("w", "b")])
        assert found[f"layer[{i}]"]["weight_norm"] == pytest.approx(np.linalg.norm(weights))
    same(found["params['out'] (read outside all layers)"], "gradient", gradient["out"])


@WRAP
def test_update_ratio(wrap):
    """That of optax, from the optimiser, from its state too, and from the updates."""
    optimiser = optax.adam(1e-2)

    def step(params, x):
        _, gradient, found = value_grad_and_flow(scanned)(params, x)
        updates, state = optimiser.update(gradient, optimiser.init(params), params)
        return found.with_updates(updates), updates, state

    found, updates, state = wrap(step)(PARAMS, X)
    for i in range(3):
        norm = np.linalg.norm(
            np.concatenate([np.ravel(updates["layers"][k][i]) for k in ("w", "b")])
        )
        row = found[f"layer[{i}]"]
        assert row["update_norm"] == pytest.approx(norm, rel=1e-5)
        assert row["update_ratio"] == pytest.approx(norm / row["weight_norm"], rel=1e-5)
    same_flow = flow(scanned, PARAMS, X, update=optimiser)
    assert same_flow["layer[1]"]["update_ratio"] == pytest.approx(
        found["layer[1]"]["update_ratio"], rel=1e-3
    )
    second = flow(scanned, PARAMS, X, update=(optimiser, state))["layer[1]"]["update_norm"]
    expected = optimiser.update(jax.grad(scanned)(PARAMS, X), state, PARAMS)[0]["layers"]
    norm = np.linalg.norm(np.concatenate([np.ravel(expected[k][1]) for k in ("w", "b")]))
    assert second == pytest.approx(norm, rel=1e-3)


def test_updates_unlike_the_gradient():
    with pytest.raises(errors.InputError, match="not like the gradient"):
        flow(scanned, PARAMS, X).with_updates({"out": jnp.ones(4)})


def test_numbers_that_squares_would_lose():
    """Norms below the root of the smallest float, and above the root of the largest."""
    small, large = jnp.full((4, 4), 1e-30), jnp.full((4, 4), 1e30)

    def loss(w, x):
        with jax.named_scope("layer"):
            y = x * w
        return jnp.sum(y * w)

    row = flow(loss, jnp.full((4, 4), 1e-8), small)["layer"]
    assert row["value_norm"] == pytest.approx(4e-38, rel=1e-5)
    assert flow(loss, jnp.ones((4, 4)), large)["layer"]["value_norm"] == pytest.approx(
        4e30, rel=1e-5
    )


def test_bfloat16_and_complex():
    def loss(w, x):
        with jax.named_scope("layer"):
            y = x * w
        return jnp.sum(jnp.abs(y) ** 2).astype(jnp.float32)

    half = jnp.full((128, 128), 0.1, jnp.bfloat16)
    row = flow(loss, half, jnp.ones_like(half))["layer"]
    assert row["value_norm"] == pytest.approx(128 * float(half[0, 0]), rel=1e-5)
    z = jnp.array([3 + 4j, 0j, 0j, 5j])
    row = flow(loss, jnp.ones(4), z)["layer"]
    assert (row["value_norm"], row["value_zeros"]) == (pytest.approx(np.sqrt(50)), 0.5)
    assert row["value_mean"] == pytest.approx(abs(3 + 9j) / 4)


def test_while_loop():
    """The last step of a loop; a parameter read in each step has a row of its own."""

    def loss(w, n):
        def body(loop):
            i, h = loop
            with jax.named_scope("body"):
                h = jnp.tanh(w @ h)
            return i + 1, h

        return jnp.sum(lax.while_loop(lambda loop: loop[0] < n, body, (0, jnp.ones(3)))[1])

    w, h = np.full((3, 3), 0.2), np.ones(3)
    for _ in range(5):
        h = np.tanh(w @ h)
    found = flow(loss, jnp.asarray(w, jnp.float32), 5)
    same(found["body (last step)"], "value", h)
    same(found["body (last step)"], "cotangent", np.ones(3))
    assert "gradient_norm" in found["w (read in each step of a loop)"]
    assert "value_norm" not in flow(loss, jnp.ones((3, 3)), 0)["body (last step)"]


def test_a_branch_that_was_not_taken_has_no_numbers():
    def named(name, f):
        def branch(x):
            with jax.named_scope(name):
                return f(x)

        return branch

    def loss(w, p):
        return jnp.sum(lax.cond(p, named("one", jnp.sin), named("other", jnp.cos), w) ** 2)

    rows = {row["layer"]: row for row in flow(loss, jnp.ones(3), True).rows()}
    assert "value_norm" not in rows["other"]
    same(rows["one"], "value", np.sin(np.ones(3)))
    assert flow(loss, jnp.ones(3), True).flags() == []


def test_recurrent_network_of_many_steps():
    """64 of 200 steps are rows, the first and the last among them, and that is said."""

    def loss(w, xs):
        def step(h, x):
            with jax.named_scope("cell"):
                h = jnp.tanh(w * h + x)
            return h, None

        return jnp.sum(lax.scan(step, jnp.zeros(2), xs)[0])

    found = flow(loss, 0.5, jnp.ones((200, 2)))
    names = [row["layer"] for row in found.rows() if row["layer"].startswith("cell")]
    assert (len(names), names[0], names[-1]) == (64, "cell[0]", "cell[199]")
    assert "64 of 200 steps" in str(found)
    same(found["cell[199]"], "cotangent", np.ones(2))


@pytest.mark.parametrize("explicit", [False, True])
def test_sharded_arrays(explicit):
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, PartitionSpec("d")))
        params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))
        found = jax.jit(value_grad_and_flow(scanned))(params, x)[2]
        rows = found.rows()
    expected = flow(scanned, PARAMS, X)
    for row in rows:
        for name, number in expected[row["layer"]].items():
            if isinstance(number, float):
                assert row[name] == pytest.approx(number, rel=1e-4, abs=1e-7)


def test_abstract_arguments():
    """Rows without numbers."""
    structs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)
    found = flow(scanned, structs, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert "layer[2]  params['layers']['b'], params['layers']['w']" in str(found)
    with pytest.raises(errors.InputError, match="it has none"):
        found.rows()


def test_a_loop_of_training_steps_that_looks_every_tenth_time():
    plain = lambda params, x: (*jax.value_and_grad(scanned)(params, x), blank)
    watched = value_grad_and_flow(scanned)
    structs = jax.eval_shape(watched, PARAMS, X)[2]
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), structs)

    @jax.jit
    def train(params):
        def step(params, i):
            _, gradient, found = lax.cond(i % 10 == 0, watched, plain, params, X)
            return jax.tree.map(lambda p, ct: p - 0.01 * ct, params, gradient), found

        return lax.scan(step, params, jnp.arange(20))[1]

    flows = train(PARAMS)
    first, tenth = (jax.tree.map(lambda x, i=i: x[i], flows) for i in (0, 10))
    same(first["layer[0]"], "value", values_of_layers()[0])
    same(first["layer[0]"], "cotangent", cotangents_of_layers()[0])
    assert tenth["layer[0]"]["weight_norm"] != first["layer[0]"]["weight_norm"]
    assert [row for row in jax.tree.map(lambda x: x[5], flows).rows() if "value_norm" in row] == []


def test_places_and_several_arguments_and_aux():
    def loss(params, x):
        return scanned(params, x), {"n": 3}

    places = {"h": at(function=jax.nn.relu)}
    _, gradient, found = value_grad_and_flow(loss, (0, 1), has_aux=True, places=places)(PARAMS, X)
    assert [row["layer"] for row in found.rows() if "value_norm" in row] == ["h[0]", "h[1]", "h[2]"]
    same(found["h[1]"], "value", values_of_layers()[1])
    assert len(gradient) == 2
    assert flow(loss, PARAMS, X, has_aux=True, places=at("layer"))["layer[0]"]["size"] == 128


def test_log_is_a_flat_dict_of_floats():
    logged = flow(scanned, PARAMS, X).log("f/")
    assert all(type(number) is float for number in logged.values())
    assert logged["f/layer[0]/value_norm"] == pytest.approx(np.linalg.norm(values_of_layers()[0]))
    assert logged["f/flags/vanishing"] == 0.0


def test_what_jit_has_not_run_has_no_numbers():
    def step(params):
        found = value_grad_and_flow(scanned)(params, X)[2]
        assert "no numbers yet" in repr(found)
        return found.rows()

    with pytest.raises(errors.InputError, match="Return it from the jitted function"):
        jax.jit(step)(PARAMS)
