"""How names and numbers are written in little room."""

import jax
import numpy as np
import pytest

from funcgrad.inspect.graphs.drawing import text


@pytest.mark.parametrize(
    ("name", "inside", "shown"),
    [
        ("x", (), "x"),
        ("params['w']", (), "params.w"),
        ("params['dense']['kernel']", ("dense",), "kernel"),
        ("dense", ("dense",), "dense"),
        ("p['mlp/~/linear_0']['w']", ("mlp", "linear_0"), "w"),
        ("params[0]['w'][1]", (), "params[0].w[1]"),
        ("params['encoder']['layer_11']['attention']['kernel']", (), "…attention.kernel"),
        ("a" * 40, (), "…" + "a" * 21),
    ],
)
def test_names(name, inside, shown):
    assert text.short_name(name, inside) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.0, "1"), (-0.01234567, "-0.0123"), (1.2345e-5, "1.23e-05"), (np.float32(10.0998), "10.1"),
        (7, "7"), (np.int8(-3), "-3"), (True, "True"), (np.bool_(False), "False"),
        (float("nan"), "nan"), (float("-inf"), "-inf"), (1 + 2j, "1+2j"),
        (jax.numpy.bfloat16(0.5), "0.5"),
    ],
)  # fmt: skip
def test_numbers(value, shown):
    assert text.number(value) == shown


def test_a_small_matrix_is_written_row_by_row():
    rows = text.table(np.float32([[1, -20], [0.5, 3]]))
    assert rows == [["1", "-20"], ["0.5", "3"]]
    assert text.lines(rows) == ["  1  -20", "0.5    3"]


@pytest.mark.parametrize(
    "value",
    [None, np.zeros(0), np.zeros(5), np.zeros((3, 4)), np.zeros((1, 1, 1)), jax.random.key(0)],
)
def test_what_is_large_or_no_number_is_not_written(value):
    assert text.table(value) == []
