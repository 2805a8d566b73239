"""Squared norms of each example's gradient equal those of jax.vmap(jax.grad)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad import errors
from funcgrad.surgery.methods import squared_norms

KEYS = jax.random.split(jax.random.key(0), 8)


def drawn(i, *shape):
    return jax.random.normal(KEYS[i], shape)


def axes(data):
    return (None, *(0 for _ in data))


def expected(loss, params, *data):
    gradients = jax.jit(jax.vmap(jax.grad(loss), axes(data)))(params, *data)
    return jax.tree.map(lambda g: np.sum(np.abs(g) ** 2, axis=tuple(range(1, g.ndim))), gradients)


def assert_equal(loss, params, *data, jit=True, rtol=1e-4, **options):
    norms = jax.vmap(squared_norms(loss, **options), axes(data))
    found = (jax.jit(norms) if jit else norms)(params, *data)
    wanted = expected(loss, params, *data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, wanted)
    assert all(leaf.shape == data[0].shape[:1] for leaf in jax.tree.leaves(found))


# --- plain functions


def mlp(params, x):
    h = jnp.tanh(x @ params["w"] + params["b"])
    return jnp.sum((h @ params["v"]) ** 2)


MLP = {"w": drawn(0, 4, 3), "b": drawn(1, 3), "v": drawn(2, 3, 2)}


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 2, 4)], ids=str)
def test_dense(shape, jit):
    assert_equal(mlp, MLP, drawn(3, 5, *shape), jit=jit)


def test_one_example_alone():
    x = drawn(3, 4)
    gradient = jax.grad(mlp)(MLP, x)
    found = squared_norms(mlp)(MLP, x)
    for name in MLP:
        np.testing.assert_allclose(found[name], np.sum(gradient[name] ** 2), rtol=1e-5)


def test_by_another_argument_with_integers_beside_it():
    def loss(label, w, x):
        return -jax.nn.log_softmax(x @ w)[label]

    data = jnp.array([0, 1, 1]), drawn(3, 3, 4)
    norms = jax.vmap(squared_norms(loss, argnums=1), (0, None, 0))(data[0], MLP["w"], data[1])
    wanted = jax.vmap(jax.grad(loss, argnums=1), (0, None, 0))(data[0], MLP["w"], data[1])
    np.testing.assert_allclose(norms, np.sum(wanted**2, axis=(1, 2)), rtol=1e-5)


def through_scan(params, x):
    def layer(h, of_layer):
        w, b = of_layer
        return jnp.tanh(h @ w + b) @ params["shared"], None

    h, _ = jax.lax.scan(layer, x, (params["w"], params["b"]))
    return jnp.sum(h**2)


LAYERS = {"w": drawn(4, 3, 4, 4), "b": drawn(5, 3, 4), "shared": drawn(6, 4, 4)}


@pytest.mark.parametrize("shape", [(4,), (2, 4)], ids=str)
def test_scan_over_layers_and_a_matrix_that_all_steps_read(shape):
    assert_equal(through_scan, LAYERS, drawn(7, 5, *shape))


def test_remat_in_a_scan():
    def loss(params, x):
        layer = jax.checkpoint(lambda h, w: (jnp.tanh(w.T @ h), None))
        return jnp.sum(jax.lax.scan(layer, x, params)[0] ** 2)

    assert_equal(loss, LAYERS["w"], drawn(7, 5, 4))


def test_a_scan_in_a_scan():
    def loss(params, x):
        def outer(h, w):
            inner = jax.lax.scan(lambda h, v: (jnp.tanh(h @ w @ v), None), h, params["v"])
            return inner[0], None

        return jnp.sum(jax.lax.scan(outer, x, params["w"])[0] ** 2)

    assert_equal(loss, {"w": 0.5 * drawn(4, 3, 4, 4), "v": 0.5 * drawn(5, 2, 4, 4)}, drawn(7, 5, 4))


def test_a_scan_from_the_last_layer_to_the_first():
    def loss(params, x):
        layer = lambda h, w: (jnp.tanh(h @ w), None)
        return jnp.sum(jax.lax.scan(layer, x, params, reverse=True)[0] ** 2)

    assert_equal(loss, LAYERS["w"], drawn(7, 5, 4))


def test_matrices_side_by_side():
    def loss(params, x):
        return jnp.sum(jnp.tanh(jax.vmap(lambda w: w @ x)(params)) ** 2)

    assert_equal(loss, LAYERS["w"], drawn(7, 5, 4))


def test_a_traced_value_that_the_loss_closes_over():
    @jax.jit
    def norms(scale):
        of_example = lambda params, x: mlp(params, scale * x)
        return jax.vmap(squared_norms(of_example), (None, 0))(MLP, drawn(3, 5, 4))

    wanted = expected(lambda params, x: mlp(params, 2 * x), MLP, drawn(3, 5, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), norms(2.0), wanted)


def test_a_norm_has_a_gradient():
    def penalty(squared):
        return lambda params: sum(jax.tree.leaves(squared(params, drawn(3, 4))))

    squares = lambda params, x: jax.tree.map(lambda g: jnp.sum(g**2), jax.grad(mlp)(params, x))
    wanted = jax.grad(penalty(squares))(MLP)
    found = jax.jit(funcgrad.grad(penalty(squared_norms(mlp))))(MLP)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, wanted)


def test_branches():
    def loss(w, x):
        return jnp.sum(jax.lax.cond(x[0] > 0, lambda: jnp.tanh(x @ w), lambda: x @ w @ w) ** 2)

    x = drawn(7, 6, 4)
    assert 0 < np.sum(x[:, 0] > 0) < 6
    assert_equal(loss, drawn(4, 4, 4), x)


def test_one_matrix_read_by_an_embedding_and_transposed_by_a_head():
    def loss(params, tokens):
        h = jnp.tanh(jnp.take(params["table"], tokens, axis=0) @ params["w"])
        return -jnp.sum(jax.nn.log_softmax(h @ params["table"].T)[:, 0])

    tokens = jax.random.randint(KEYS[7], (5, 6), 0, 7)
    assert_equal(loss, {"table": drawn(0, 7, 4), "w": drawn(1, 4, 4)}, tokens)


@pytest.mark.parametrize("mode", ["clip", "fill"])
def test_an_embedding_of_numbers_out_of_range(mode):
    def loss(table, tokens):
        return jnp.nansum(jnp.take(table, tokens, axis=0, mode=mode) ** 3)

    assert_equal(loss, drawn(0, 7, 4), jnp.array([[0, 9, 9], [6, 6, 0], [-1, 1, 2]]))


def test_a_matrix_in_bfloat16():
    def loss(w, x):
        return jnp.sum(jnp.sin((x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)).astype(float)))

    assert_equal(loss, MLP["w"], drawn(3, 5, 4), rtol=2e-2)


@pytest.mark.parametrize("sequence", [2, 20], ids=["by positions", "by the gradient"])
def test_either_order_of_the_sums(sequence):
    assert_equal(mlp, MLP, drawn(3, 5, sequence, 4))


# --- what is not known


def test_a_large_parameter_that_something_else_reads_is_an_error():
    def loss(params, x):
        return mlp(params, x) + jnp.sum(params["w"] ** 2)

    with pytest.raises(
        errors.FactorError, match=r"by \['w'\], float32\[4,3\](.|\n)*(integer_pow|square)"
    ):
        squared_norms(loss)(MLP, drawn(3, 4))
    assert_equal(loss, MLP, drawn(3, 5, 4), materialise=True)


def test_a_while_loop_is_an_error():
    def loss(w, x):
        return jnp.sum(jax.lax.fori_loop(0, x[0].astype(int), lambda _, h: jnp.tanh(h @ w), x))

    with pytest.raises(errors.FactorError, match="while"):
        squared_norms(loss)(drawn(4, 4, 4), jnp.ones(4))


def test_parameters_that_are_multiplied_with_each_other_are_an_error():
    def loss(params, x):
        return jnp.sum(x @ (params["w"] @ params["v"]))

    with pytest.raises(errors.FactorError, match="dot_general"):
        squared_norms(loss)({"w": drawn(0, 4, 3), "v": drawn(1, 3, 5)}, drawn(3, 4))


def test_a_parameter_returned_and_one_that_nothing_reads():
    params = {"loss": jnp.float32(2.0), "none": jnp.ones((2, 2))}
    found = squared_norms(lambda p, x: p["loss"])(params, 1.0)
    assert (found["loss"], found["none"]) == (1, 0)


def test_no_value_has_the_size_of_the_examples_gradients():
    examples, m, n = 8, 64, 32
    params = {"w": jnp.ones((m, n)), "b": jnp.ones(n), "v": jnp.ones((n, 2))}

    def largest(f):
        jaxpr = jax.make_jaxpr(jax.vmap(f, (None, 0)))(params, jnp.ones((examples, m)))
        program = funcgrad.places.program.program_of(jaxpr)
        return max(aval.size for place in program.walk() for aval in place.outputs)

    assert largest(jax.grad(mlp)) >= examples * m * n
    assert largest(squared_norms(mlp)) < examples * m * n


# --- models of libraries, not edited


def test_flax_convolutions():
    nn = pytest.importorskip("flax.linen", reason="flax is not installed: pip install flax")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.GroupNorm(2)(nn.relu(nn.Conv(4, (3, 3), strides=2)(x)))
            x = nn.Conv(6, (2, 3), feature_group_count=2, padding="VALID", kernel_dilation=2)(x)
            x = nn.ConvTranspose(3, (3, 3), strides=(2, 2))(nn.LayerNorm()(x))
            return nn.Dense(3)(x.reshape(-1))

    model, x = Net(), drawn(0, 4, 9, 10, 3)
    params = model.init(KEYS[1], x[0])
    assert_equal(lambda params, x: jnp.sum(model.apply(params, x) ** 2), params, x)


def test_flax_transformer():
    nn = pytest.importorskip("flax.linen", reason="flax is not installed: pip install flax")

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            embed = nn.Embed(11, 8)
            x = embed(tokens) + self.param("position", nn.initializers.normal(1.0), (6, 8))
            x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.RMSNorm()(x))))
            return embed.attend(x)

    model, tokens = Transformer(), jax.random.randint(KEYS[0], (4, 6), 0, 11)
    params = model.init(KEYS[1], tokens[0])

    def loss(params, tokens):
        return -jnp.mean(jax.nn.log_softmax(model.apply(params, tokens))[:, 1])

    assert_equal(loss, params, tokens)


def test_flax_nnx():
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed: pip install flax")

    class Net(nnx.Module):
        def __init__(self):
            self.hidden = nnx.Linear(4, 6, rngs=nnx.Rngs(0))
            self.out = nnx.Linear(6, 2, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.out(nnx.relu(self.hidden(x)))

    definition, params = nnx.split(Net())
    loss = lambda params, x: jnp.sum(nnx.merge(definition, params)(x) ** 2)
    assert_equal(loss, params, drawn(3, 5, 4))


def test_haiku():
    hk = pytest.importorskip("haiku", reason="haiku is not installed: pip install dm-haiku")
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([6, 2])(x)))
    params = net.init(KEYS[0], jnp.ones(4))
    assert_equal(lambda params, x: jnp.sum(net.apply(params, x) ** 2), params, drawn(3, 5, 4))


def test_equinox():
    eqx = pytest.importorskip("equinox", reason="equinox is not installed: pip install equinox")

    class Net(eqx.Module):
        embed: eqx.nn.Embedding
        conv: eqx.nn.Conv1d
        norm: eqx.nn.LayerNorm
        head: eqx.nn.Linear

        def __call__(self, tokens):
            h = jax.vmap(self.embed)(tokens) + self.embed(tokens[0])
            h = jax.nn.relu(self.conv(h.T)).T
            return jax.vmap(lambda x: self.head(self.norm(x)))(h)

    model = Net(
        eqx.nn.Embedding(9, 4, key=KEYS[0]),
        eqx.nn.Conv1d(4, 6, 3, groups=2, key=KEYS[1]),
        eqx.nn.LayerNorm(6),
        eqx.nn.Linear(6, 5, key=KEYS[2]),
    )
    params, static = eqx.partition(model, eqx.is_array)
    tokens = jax.random.randint(KEYS[3], (4, 6), 0, 9)
    assert_equal(lambda p, t: jnp.sum(eqx.combine(p, static)(t) ** 2), params, tokens)
