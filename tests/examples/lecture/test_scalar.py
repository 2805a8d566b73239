"""Derivatives on scalar nodes are those of differences and of jax.grad."""

import math

import jax
import numpy as np
import pytest


@pytest.fixture
def scalar():
    from lecture import scalar

    return scalar


FUNCTIONS = {
    "exp": math.exp,
    "sin_of_degrees": lambda x: math.sin(math.radians(x)),
    "reciprocal": lambda x: 1 / x,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("point", [-1.3, 0.7, 40.0])
def test_a_function_and_its_local_derivative(name, point, scalar):
    node = getattr(scalar, name)(scalar.Node(point))
    step = 1e-5
    high, low = FUNCTIONS[name](point + step), FUNCTIONS[name](point - step)
    assert node.value == pytest.approx(FUNCTIONS[name](point), rel=1e-14)
    scale = 1e-10 * max(1.0, abs(node.value))  # what is lost in the subtraction, and step squared
    assert node.local[0] == pytest.approx((high - low) / (2 * step), rel=1e-8, abs=scale)


def test_operators(scalar):
    def function(x, y):
        return (x * y - x) ** 3 + y * (-x)

    x, y = scalar.Node(1.5), scalar.Node(-0.4)
    result = function(x, y)
    scalar.backward(result)
    expected = jax.grad(function, (0, 1))(1.5, -0.4)
    assert result.value == pytest.approx(function(1.5, -0.4))
    np.testing.assert_allclose((x.ct, y.ct), expected, rtol=1e-5)


def test_contributions_add_up_and_a_second_walk_begins_anew(scalar):
    x = scalar.Node(3.0, "x")
    result = x**2 + x
    for _ in range(2):
        scalar.backward(result)
        assert x.ct == 7.0
    assert str(x) == "x: value 3, ct 7"


def test_each_node_comes_after_its_inputs(scalar):
    x = scalar.Node(2.0)
    shared = scalar.tanh(x)
    result = shared * shared + x
    order = scalar.nodes_behind(result)
    place = {node: i for i, node in enumerate(order)}
    assert len(order) == len(place) == 4
    assert all(place[source] < place[node] for node in order for source in node.inputs)


def test_a_chain_may_be_deeper_than_pythons_stack(scalar):
    x = node = scalar.Node(1.0)
    for _ in range(5000):
        node = -node
    scalar.backward(node)
    assert x.ct == 1.0


def test_central_differences_of_an_array(scalar):
    x = np.array([[0.3, -0.2], [1.0, 2.0]])
    found = scalar.central_difference(lambda x: np.sum(np.sin(x) * x[0, 0]), x)
    expected = np.cos(x) * 0.3
    expected[0, 0] += np.sin(x).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_central_differences_of_a_number(scalar):
    found = scalar.central_difference(math.tanh, 0.5)
    assert found.shape == ()
    assert found == pytest.approx(1 - math.tanh(0.5) ** 2, rel=1e-8)
