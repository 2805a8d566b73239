"""The lecture's network has the lecture's numbers, by whatever it is computed."""

import math

import jax
import numpy as np
import pytest


@pytest.fixture
def network():
    from lecture import network

    return network


def test_output_target_and_loss_are_the_lectures(network):
    made = network.values(
        **network.WEIGHTS, **network.DATA, sigmoid=lambda k: 1 / (1 + math.exp(-k))
    )
    hidden = [made[f"h{j}"] for j in (1, 2, 3)]
    np.testing.assert_allclose(hidden, [0.1, 0.5, 0.9])
    np.testing.assert_allclose((made["y"], network.DATA["t"], made["loss"]), (10.1, 12.1, 4))


def test_names_and_matrices_are_the_same_weights(network):
    by_name = jax.grad(lambda p: network.named_loss(**p, **network.DATA))(network.WEIGHTS)
    ct_v, ct_w = jax.grad(network.loss, (0, 1))(network.V, network.W)
    assert network.W[1, 0] == network.WEIGHTS["w12"]
    for j in (1, 2, 3):
        np.testing.assert_allclose(by_name[f"v{j}"], ct_v[j - 1], rtol=1e-5)
        for i in (1, 2):
            np.testing.assert_allclose(by_name[f"w{i}{j}"], ct_w[j - 1, i - 1], rtol=1e-5)


def test_nodes_have_the_derivatives_of_jax_grad(network):
    from lecture import scalar

    given = {n: scalar.Node(x, n) for n, x in (network.WEIGHTS | network.DATA).items()}
    made = network.values(**given, sigmoid=scalar.sigmoid)
    scalar.backward(made["loss"])
    every = network.WEIGHTS | network.DATA
    expected = jax.grad(lambda p: network.named_loss(**p))(every)
    for name, node in given.items():
        np.testing.assert_allclose(node.ct, expected[name], rtol=1e-5)
