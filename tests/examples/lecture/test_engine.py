"""The engine of the third notebook: its cotangents are those of jax.grad and of differences."""

import ast
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "examples"))

from lecture import engine
from lecture.engine import Op, TensorNode, matmul, sigmoid, total

RNG = np.random.default_rng(0)
X, W, B, V, T = (RNG.normal(size=shape) for shape in [(5, 2), (2, 3), (3,), (3, 1), (5, 1)])


def network(x, w, b, v, t, squash=sigmoid, add_up=total):
    """A network in operators alone, so that nodes and arrays of JAX's can go through it."""
    return add_up((squash(x @ w + b) @ v - t) ** 2)


def jax_network(*arrays):
    return network(*arrays, squash=jax.nn.sigmoid, add_up=jnp.sum)


def cotangents_of(function, *arrays):
    leaves = [TensorNode(array) for array in arrays]
    out = function(*leaves)
    out.backward()
    return out.value, [leaf.ct for leaf in leaves]


def differences(function, *arrays, step=1e-6):
    """Central differences of a function of nodes by each element of each argument."""
    slopes = [np.zeros_like(array) for array in arrays]
    for i, array in enumerate(arrays):
        for index in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() for a in arrays]
                moved[i][index] += sign * step
                ends.append(function(*map(TensorNode, moved)).value)
            slopes[i][index] = (ends[0] - ends[1]) / (2 * step)
    return slopes


CASES = {
    "network": (network, jax_network, (X, W, B, V, T)),
    "used twice": (lambda x: x * x + x, lambda x: x * x + x, (np.array(3.0),)),
    "numbers": (
        lambda x: total(2 - 3 * x + 1 - x**3),
        lambda x: jnp.sum(2 - 3 * x + 1 - x**3),
        (X,),
    ),
    "array on the left": (lambda w: total(X @ w * 1.5), lambda w: jnp.sum(X @ w * 1.5), (W,)),
    "a broadcast product": (
        lambda a, b: total(sigmoid(a * b)),
        lambda a, b: jnp.sum(jax.nn.sigmoid(a * b)),
        (RNG.normal(size=(4, 1, 3)), RNG.normal(size=(2, 1))),
    ),
}


@pytest.mark.parametrize(("of_nodes", "of_arrays", "arrays"), CASES.values(), ids=CASES)
def test_cotangents_are_those_of_jax_and_of_differences(of_nodes, of_arrays, arrays):
    value, cts = cotangents_of(of_nodes, *arrays)
    with jax.enable_x64(True):
        expected, gradient = jax.value_and_grad(of_arrays, tuple(range(len(arrays))))(*arrays)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for ct, from_jax, slope in zip(cts, gradient, differences(of_nodes, *arrays), strict=True):
        assert ct.shape == from_jax.shape
        np.testing.assert_allclose(ct, from_jax, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ct, slope, rtol=1e-6, atol=1e-6)


def test_a_lazy_graph_is_fed_again_and_again():
    leaves = [TensorNode() for _ in range(5)]
    loss = network(*leaves)
    assert loss.value is None
    for scale in (1.0, 0.5):
        arrays = [scale * array for array in (X, W, B, V, T)]
        fed = loss.feed(dict(zip(leaves, arrays, strict=True)))
        loss.backward()
        value, cts = cotangents_of(network, *arrays)
        assert fed == value
        for leaf, ct in zip(leaves, cts, strict=True):
            np.testing.assert_array_equal(leaf.ct, ct)


def test_a_second_walk_does_not_add_to_the_first():
    x = TensorNode(3.0)
    y = x * x
    y.backward()
    y.backward()
    assert x.ct == 6.0


def test_a_long_chain_needs_no_deep_stack():
    x, y = TensorNode(1.0), TensorNode(0.0)
    for _ in range(3000):
        y = y + x
    y.backward()
    assert y.value == x.ct == 3000


def test_one_op_and_many_op_nodes():
    nodes = network(*map(TensorNode, (X, W, B, V, T))).history()
    assert [node.op for node in nodes].count(matmul) == 2
    assert [type(node.op).__name__ for node in nodes] == (
        ["Matmul", "Add", "Sigmoid", "Matmul", "Subtract", "Power", "Total"]
    )
    assert nodes[2].inputs == [nodes[1].output]
    assert nodes[2].output.maker is nodes[2]


class WrongShape(Op):
    def forward(self, context, x):
        return x.sum()

    def backward(self, context, ct):
        return (ct,)


class NoGradient(Op):
    def forward(self, context, x, y):
        return (x * y).sum()

    def backward(self, context, ct):
        return ct * Y, None


Y = np.array([2.0, 3.0])


def test_a_cotangent_of_another_shape_is_an_error():
    y = WrongShape()(TensorNode(Y))
    with pytest.raises(ValueError, match=r"WrongShape returned .* \(\) for an input of \(2,\)"):
        y.backward()


def test_none_is_no_cotangent():
    x, y = TensorNode(np.ones(2)), TensorNode(Y)
    NoGradient()(x, y).backward()
    np.testing.assert_array_equal(x.ct, Y)
    np.testing.assert_array_equal(y.ct, np.zeros(2))


def test_errors_say_what_is_missing():
    x = TensorNode()
    y = x * 2
    with pytest.raises(ValueError, match="Multiply reads a tensor that has no value"):
        (y + 1).feed({})
    with pytest.raises(ValueError, match="only leaves are fed: Multiply makes this one"):
        y.feed({y: 1.0})
    with pytest.raises(ValueError, match="scalar that has a value"):
        y.backward()
    with pytest.raises(ValueError, match="scalar that has a value"):
        TensorNode(Y).backward()
    with pytest.raises(ValueError, match="two matrices"):
        TensorNode(Y) @ TensorNode(Y)


def lines_of_code(node: ast.ClassDef, source: str) -> int:
    """Lines of a class that are neither empty nor part of a docstring."""
    numbered = enumerate(source.splitlines(), 1)
    lines = {i for i, line in numbered if line.strip() and node.lineno <= i <= node.end_lineno}
    for inner in ast.walk(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(inner):
            lines -= set(range(inner.body[0].lineno, inner.body[0].end_lineno + 1))
    return len(lines)


def test_the_three_classes_are_80_lines():
    source = Path(engine.__file__).read_text(encoding="utf-8")
    classes = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    counts = [lines_of_code(classes[name], source) for name in ("Op", "OpNode", "TensorNode")]
    assert 60 < sum(counts) <= 80
