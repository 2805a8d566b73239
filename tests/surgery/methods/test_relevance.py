"""LRP against the formulas of Bach et al. and Montavon et al., against zennit and Captum."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcgrad import at, errors
from funcgrad.surgery.methods.relevance import alpha_beta, epsilon, gamma, lrp, z_plus
from tests.surgery.methods import networks
from tests.surgery.methods.networks import IMAGE, TARGET, logit


def stabilised(y, eps=1e-6):
    return y + eps * np.where(y >= 0, 1, -1)


def by_epsilon(x, w, b, relevance, eps=1e-6):
    z = w * x
    return (z / stabilised(z.sum(1) + b, eps)[:, None] * relevance[:, None]).sum(0)


def by_gamma(x, w, b, relevance, gamma):
    z, b = (w + gamma * np.maximum(w, 0)) * x, b + gamma * np.maximum(b, 0)
    return (z / stabilised(z.sum(1) + b)[:, None] * relevance[:, None]).sum(0)


def by_alpha_beta(x, w, b, relevance, alpha, beta):
    z = w * x
    above = np.maximum(z, 0) / stabilised(np.maximum(z, 0).sum(1) + np.maximum(b, 0))[:, None]
    below = np.minimum(z, 0) / stabilised(np.minimum(z, 0).sum(1) + np.minimum(b, 0))[:, None]
    return ((alpha * above - beta * below) * relevance[:, None]).sum(0)


RULES = {
    "epsilon": (epsilon(), by_epsilon),
    "epsilon 0.25": (epsilon(0.25), functools.partial(by_epsilon, eps=0.25)),
    "gamma": (gamma(0.5), functools.partial(by_gamma, gamma=0.5)),
    "alpha 2, beta 1": (alpha_beta(2, 1), functools.partial(by_alpha_beta, alpha=2, beta=1)),
    "z-plus": (z_plus(), functools.partial(by_alpha_beta, alpha=1, beta=0)),
}
ALL = ("conv0", "conv1", "dense0", "dense1")


def by_definition(rules, layers, x, target):
    """Relevance from the last layer to the first; a rectifier hands it on whole."""
    values = []
    for w, b in layers:
        values.append(x)
        z = w @ x + b
        x = np.maximum(z, 0)
    relevance = np.where(np.arange(len(z)) == target, z, 0)
    for rule, (w, b), x in [*zip(rules, layers, values, strict=True)][::-1]:
        relevance = rule(x, w, b, relevance)
    return relevance


def of_network(rules):
    x = IMAGE.reshape(-1).astype(float)
    return by_definition(rules, networks.matrices(), x, TARGET).reshape(IMAGE.shape)


def assert_close(ours, expected, rtol=1e-4):
    np.testing.assert_allclose(ours, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("around", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("name", RULES)
def test_equals_the_definition(name, around):
    rule, definition = RULES[name]
    assert_close(around(lrp(around(logit), rule))(IMAGE), of_network([definition] * 4))


def test_a_composite():
    names = ["z-plus", "gamma", "alpha 2, beta 1", "epsilon"]
    pairs = [(at(layer), RULES[name][0]) for layer, name in zip(ALL, names, strict=True)]
    expected = of_network([RULES[name][1] for name in names])
    assert_close(lrp(logit, composite=pairs)(IMAGE), expected)
    wider = [(at("conv*"), epsilon(0.3)), *pairs[:2], (at("dense0"), pairs[2][1])]
    assert_close(lrp(logit, epsilon(), wider)(IMAGE), expected)


def test_relevance_of_an_inner_layer():
    relevance, tapped = lrp(logit, z_plus(), taps={"h": at("dense0")})(IMAGE)
    inner = tapped["h"].value * tapped["h"].cotangent
    ((w, b), (h, z)) = networks.matrices()[-1], networks.forward(IMAGE)[-1]
    expected = RULES["z-plus"][1](h, w, b, np.where(np.arange(3) == TARGET, z, 0))
    assert_close(inner, expected)
    assert relevance.shape == IMAGE.shape


@pytest.mark.parametrize("name", RULES)
def test_flax_and_equinox_models(name):
    eqx, nn = pytest.importorskip("equinox"), pytest.importorskip("flax.linen")
    rule, definition = RULES[name]
    x = np.linspace(-1, 1, 4, dtype=np.float32)
    mlp = eqx.nn.MLP(4, 2, 8, 2, key=jax.random.key(0))
    model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(8), nn.relu, nn.Dense(2)])
    params = model.init(jax.random.key(1), x)
    params = jax.tree.map(lambda w: w + 0.1, params)  # no bias is zero
    of_flax = [params["params"][f"layers_{i}"] for i in (0, 2, 4)]
    cases = [
        (lambda x: mlp(x)[1], [(layer.weight, layer.bias) for layer in mlp.layers]),
        (lambda x: model.apply(params, x)[1], [(p["kernel"].T, p["bias"]) for p in of_flax]),
        (
            lambda x: model.apply(params, x[None])[0, 1],
            [(p["kernel"].T, p["bias"]) for p in of_flax],
        ),
    ]
    for fun, layers in cases:
        matrices = [(np.asarray(w, float), np.asarray(b, float)) for w, b in layers]
        expected = by_definition([definition] * 3, matrices, x.astype(float), 1)
        assert_close(lrp(fun, rule)(x), expected, 5e-4)


def test_an_activation_hands_its_relevance_on_whole():
    w = np.array([[1.0, -2.0], [0.5, 1.5]], np.float32)
    x = np.array([0.7, -0.4], np.float32)
    for activation in (
        jnp.tanh,
        jax.nn.gelu,
        jax.nn.silu,
        functools.partial(jax.nn.gelu, approximate=False),
    ):
        ours = lrp(lambda x, f=activation: jnp.sum(f(x @ w)))(x)
        assert_close(ours, by_epsilon(x, w.T, 0, np.asarray(activation(x @ w))))


def test_an_activation_of_a_constant_is_a_constant():
    model = lambda x: jnp.sum(
        jnp.tanh(jnp.float32(0.5)) * jax.nn.gelu(x @ np.eye(2, dtype=np.float32))
    )
    x = np.array([0.7, -0.4], np.float32)
    np.testing.assert_allclose(lrp(model)(x), jax.nn.gelu(x) * np.tanh(0.5), rtol=1e-5)


def test_relevance_is_conserved_without_biases():
    w = [np.random.default_rng(i).normal(size=(6, 6)).astype(np.float32) for i in range(3)]

    def model(x):
        for layer in w:
            x = jax.nn.relu(x @ layer)
        return jnp.sum(x)

    x = np.linspace(-1, 1, 6, dtype=np.float32)
    for rule in (epsilon(), gamma(), z_plus()):
        np.testing.assert_allclose(jnp.sum(lrp(model, rule)(x)), model(x), rtol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_a_bias_that_is_added_to_a_jitted_product_belongs_to_the_layer(name):
    w, b = np.random.default_rng(0).normal(size=(5, 4)), np.linspace(-0.5, 0.5, 5)
    x = np.linspace(-1, 2, 4)
    jitted = jax.jit(lambda w, x: (w @ x[:, None]).T)
    model = lambda x: (jitted(w.astype(np.float32), x).reshape(-1) + b.astype(np.float32))[3]
    ours = lrp(model, RULES[name][0])(x.astype(np.float32))
    assert_close(ours, by_definition([RULES[name][1]], [(w, b)], x, 3))


def test_a_bias_apart_from_a_weight_that_a_jitted_function_hides_is_an_error():
    w, b = np.eye(3, dtype=np.float32), jnp.ones(3)
    hidden = jax.jit(lambda x: w @ x)
    with pytest.raises(errors.EditError, match="outside of the jitted function"):
        lrp(lambda x: jnp.sum(hidden(x) + b))(jnp.ones(3))


# --- batch normalisation in evaluation

SCALE, SHIFT = np.array([0.7, -1.3, 2.0, -0.4]), np.array([0.3, -0.2, 0.5, 0.1])
MEAN, VARIANCE = np.array([0.2, -0.5, 0.1, 0.4]), np.array([0.5, 2.0, 1.5, 0.8])
STATISTICS = {"mean": MEAN, "var": VARIANCE}
FIRST = (np.random.default_rng(11).normal(size=(4, 3)), np.array([0.2, -0.1, 0.4, -0.3]))
SECOND = (np.random.default_rng(4).normal(size=(3, 4)), np.array([0.1, 0.3, -0.2]))
POINT = np.array([0.8, -0.6, 0.5], np.float32)
EPSILON = 1e-5


def written_out(x):
    h = x @ FIRST[0].T.astype(np.float32) + FIRST[1].astype(np.float32)
    h = (h - MEAN.astype(np.float32)) / np.sqrt(VARIANCE + EPSILON).astype(np.float32)
    h = jax.nn.relu(h * SCALE.astype(np.float32) + SHIFT.astype(np.float32))
    return (h @ SECOND[0].T.astype(np.float32) + SECOND[1].astype(np.float32))[0]


def linen(x):
    nn = pytest.importorskip("flax.linen")
    norm = nn.BatchNorm(use_running_average=True, epsilon=EPSILON)
    model = nn.Sequential([nn.Dense(4), norm, nn.relu, nn.Dense(3)])
    first, second = ({"kernel": w.T, "bias": b} for w, b in (FIRST, SECOND))
    params = {"layers_0": first, "layers_1": {"scale": SCALE, "bias": SHIFT}, "layers_3": second}
    variables = {"params": params, "batch_stats": {"layers_1": STATISTICS}}
    return model.apply(jax.tree.map(np.float32, variables), x[None])[0, 0]


def haiku(x):
    hk = pytest.importorskip("haiku")

    def model(x):
        h = hk.Linear(4, name="first")(x)
        h = jax.nn.relu(hk.BatchNorm(True, True, 0.9, EPSILON, name="norm")(h, is_training=False))
        return hk.Linear(3, name="second")(h)[0, 0]

    params = {
        "first": {"w": FIRST[0].T, "b": FIRST[1]},
        "norm": {"scale": SCALE[None], "offset": SHIFT[None]},
        "second": {"w": SECOND[0].T, "b": SECOND[1]},
    }
    state = {
        f"norm/~/{name}_ema": {"average": a[None], "hidden": a[None], "counter": np.array(0)}
        for name, a in STATISTICS.items()
    }
    apply = hk.without_apply_rng(hk.transform_with_state(model)).apply
    return apply(*jax.tree.map(np.float32, (params, state)), x[None])[0]


@pytest.mark.parametrize("model", [written_out, linen, haiku])
@pytest.mark.parametrize("name", RULES)
def test_a_batch_normalisation_in_evaluation_belongs_to_the_layer_before(name, model):
    """The weights are multiplied by scale / deviation: half of these are negative."""
    rule, definition = RULES[name]
    factor = SCALE / np.sqrt(VARIANCE + EPSILON)
    merged = (factor[:, None] * FIRST[0], (FIRST[1] - MEAN) * factor + SHIFT)
    expected = by_definition([definition] * 2, [merged, SECOND], POINT.astype(float), 0)
    assert np.abs(expected).max() > 0.1
    assert_close(jax.jit(lrp(model, rule))(POINT), expected)


def test_a_convolution_without_bias_and_its_batch_normalisation():
    nn = pytest.importorskip("flax.linen")
    parts = [nn.Conv(4, (2, 2), use_bias=False), nn.BatchNorm(True), nn.relu, lambda h: h.ravel()]
    model = nn.Sequential([*parts, nn.Dense(3, use_bias=False)])
    image = IMAGE.reshape(1, *IMAGE.shape[1:], 1)
    variables = model.init(jax.random.key(0), image)
    norm = {"mean": MEAN, "var": VARIANCE}
    shifts = {"scale": np.abs(SCALE), "bias": SHIFT}
    variables["batch_stats"]["layers_1"] = jax.tree.map(np.float32, norm)
    variables["params"]["layers_1"] = jax.tree.map(np.float32, shifts)
    factor = np.float32(np.abs(SCALE) / np.sqrt(VARIANCE + 1e-5))
    kernel = variables["params"]["layers_0"]["kernel"] * factor
    shift = np.float32(SHIFT - MEAN * factor)

    def merged(image):
        h = jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (jax.nn.relu(h + shift).ravel() @ variables["params"]["layers_4"]["kernel"])[1]

    for rule, _ in RULES.values():
        ours = lrp(lambda image: model.apply(variables, image)[1], rule)(image)
        assert_close(ours, lrp(merged, rule)(image))


def test_what_cannot_be_meant_is_an_error():
    with pytest.raises(errors.SelectorError, match="where there is none"):
        lrp(logit, composite=[(at("conv7"), z_plus())])(IMAGE)
    with pytest.raises(ValueError, match="must be 1"):
        alpha_beta(2, 2)


# --- peers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "theirs"),
    [("epsilon", ("Epsilon", {"epsilon": 1e-6})), ("epsilon 0.25", ("Epsilon", {"epsilon": 0.25})),
     ("gamma", ("Gamma", {"gamma": 0.5})), ("z-plus", ("ZPlus", {})),
     ("alpha 2, beta 1", ("AlphaBeta", {"alpha": 2.0, "beta": 1.0}))],
)  # fmt: skip
def test_equals_zennit(name, theirs):
    network = networks.torch_network()
    rules = pytest.importorskip("zennit.rules", reason="zennit is not installed: funcgrad[peers]")
    core = pytest.importorskip("zennit.core")
    image = np.abs(IMAGE) if name == "gamma" else IMAGE  # zennit's gamma has a case for x < 0
    x = networks.torch_image(image)
    target = int(network(x)[0].argmax())
    rule, handles = getattr(rules, theirs[0])(**theirs[1]), core.RemovableHandleList()
    for layer in network:
        if hasattr(layer, "weight"):
            handles.extend(rule.copy().register(layer))
        elif type(layer).__name__ == "ReLU":
            handles.extend(rules.Pass().register(layer))
    y = network(x)
    seed = (y * core.torch.eye(3)[target]).detach()
    (relevance,) = core.torch.autograd.grad(y, x, seed)
    ours = lrp(lambda x: networks.network(x)[target], RULES[name][0])(image)
    assert_close(ours, relevance[0].numpy(), 1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "theirs"),
    [("epsilon", ("EpsilonRule", {"epsilon": 1e-6})), ("z-plus", ("Alpha1_Beta0_Rule", {}))],
)
def test_equals_captum(name, theirs):
    """Captum's gamma is another one: it leaves the bias out."""
    network = networks.torch_network()
    attr = pytest.importorskip("captum.attr", reason="Captum is not installed: funcgrad[peers]")
    from captum.attr._utils import lrp_rules

    image = np.abs(IMAGE)  # Captum's z-plus is for inputs that are not negative
    x = networks.torch_image(image)
    target = int(network(x)[0].argmax())
    for layer in network:
        if hasattr(layer, "weight"):
            layer.rule = getattr(lrp_rules, theirs[0])(**theirs[1])
        elif type(layer).__name__ == "Flatten":
            layer.rule = lrp_rules.EpsilonRule()
    theirs = attr.LRP(network).attribute(x, target=target).detach()[0].numpy()
    ours = lrp(lambda x: networks.network(x)[target], RULES[name][0])(image)
    assert_close(ours, theirs, 1e-3)
