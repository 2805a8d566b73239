"""A fingerprint tells every change of one element, and is the same for every sharding."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

X = np.arange(24).reshape(2, 3, 4)
ARRAYS = {
    "float32": lambda: jnp.float32(X),
    "bfloat16": lambda: jnp.bfloat16(X),
    "int8": lambda: jnp.int8(X),
    "bool": lambda: jnp.bool_(X % 2),
    "complex64": lambda: jnp.complex64(X + 1j),
    "keys": lambda: jax.random.split(jax.random.key(0), 24).reshape(2, 3, 4),
}


@pytest.fixture
def leaves():
    import leaves

    return leaves


@pytest.mark.parametrize("array", ARRAYS)
def test_a_change_in_any_place_is_another_fingerprint(leaves, array):
    x = ARRAYS[array]()
    other = {"keys": jax.random.key(7), "bool": False}.get(array, 90)
    marks = [x, x.at[1, 2, 3].set(other), x.at[1, 2, 1].set(other), x.swapaxes(0, 2)]
    assert len({int(leaves.fingerprint(mark)) for mark in marks}) == len(marks)
    assert int(leaves.fingerprint(x)) == int(leaves.fingerprint(x.copy()))


def test_each_bit_counts(leaves):
    x = np.random.default_rng(0).normal(size=7).astype(np.float32)
    flipped = [x.view(np.uint32) ^ np.uint32(1 << bit) * (np.arange(7) == 3) for bit in range(32)]
    marks = [int(leaves.fingerprint(jnp.array(bits))) for bits in [x.view(np.uint32), *flipped]]
    assert len({*marks}) == 33
    assert marks[0] == int(leaves.fingerprint(jnp.array(x)))


def test_zeros_of_either_sign_and_both_words_of_a_double_count(leaves):
    assert leaves.fingerprint(jnp.array([0.0])) != leaves.fingerprint(jnp.array([-0.0]))
    with jax.enable_x64(True):
        x = np.array([1.0, 2.0])
        for bit in (0, 40):
            other = (x.view(np.uint64) ^ np.uint64(1 << bit)).view(np.float64)
            assert leaves.fingerprint(jnp.array(x)) != leaves.fingerprint(jnp.array(other))


@pytest.mark.parametrize("spec", [("x",), (None, None, "x"), ("x", None, "y")])
def test_a_sharded_array_has_the_same_fingerprint(leaves, spec):
    if jax.device_count() < 4:
        pytest.skip("needs 4 devices")
    mesh = jax.make_mesh((2, 2), ("x", "y"))
    x = jax.random.normal(jax.random.key(0), (4, 3, 8))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
    assert int(leaves.fingerprint(sharded)) == int(leaves.fingerprint(x))


def test_what_is_no_array_is_an_error_that_names_it(leaves):
    with pytest.raises(TypeError, match=r"`a\.rate` is a float; a state has jax.Arrays only"):
        leaves.named({"a": {"rate": 0.1}})
    with pytest.raises(ValueError, match=r"two arrays of the state have the path `a\.b`"):
        leaves.named({"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1)})


def test_differences_are_listed_up_to_five(leaves):
    text = leaves.difference("array", {}, {str(number): "int32[]" for number in range(8)})
    assert text.count("is int32[] now and was absent") == 5
    assert text.endswith("and 3 more arrays differ")
    assert leaves.difference("array", {"w": 1}, {"w": 1}) is None


@pytest.mark.parametrize("module", ["leaves", "options"])
def test_the_examples_in_docstrings_run(module):
    assert doctest.testmod(__import__(module)).failed == 0
