"""The table of derivatives refuses each way that is wrong."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("ipywidgets", reason="pictures need pip install 'funcgrad[notebooks]'")


@pytest.fixture
def compare():
    from lecture import compare

    with jax.enable_x64(True):
        yield compare


@pytest.fixture
def matrix():
    return np.array([[1.0, -2.0], [0.5, 3.0]])


def cubes(x):
    return jnp.sum(x**3)


def test_it_prints_every_entry(compare, matrix, capsys):
    compare.compare(matrix, cubes, by_hand=3 * matrix**2)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[-1].strip() == "differences"
    assert "by hand" in head
    assert [line.split()[2:] for line in lines] == [
        ["1", "3", "3", "3"], ["-2", "12", "12", "12"],
        ["0.5", "0.75", "0.75", "0.75"], ["3", "27", "27", "27"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: 3 * x**2 + 1e-6,
        lambda x: 3 * x.T**2,
        lambda x: np.full(x.shape, np.nan),
    ],
)
def test_a_wrong_way_is_refused_by_name(compare, matrix, wrong):
    with pytest.raises(AssertionError, match="by_hand"):
        compare.compare(matrix, cubes, by_hand=wrong(matrix))


def test_a_derivative_of_another_shape_is_refused(compare, matrix):
    with pytest.raises(AssertionError, match=r"by_hand: a derivative of shape \(4,\)"):
        compare.compare(matrix, cubes, by_hand=(3 * matrix**2).ravel())


def test_what_the_rules_say_is_refused_where_differences_disagree(compare, matrix):
    @jax.custom_vjp
    def cubes_with_a_wrong_rule(x):
        return cubes(x)

    cubes_with_a_wrong_rule.defvjp(lambda x: (cubes(x), x), lambda x, ct: (ct * x**2,))
    with pytest.raises(AssertionError, match="differences"):
        compare.compare(matrix, cubes_with_a_wrong_rule, by_rule=matrix**2)


def test_the_examples_in_docstrings_run(compare):
    assert doctest.testmod(compare).failed == 0
