"""One derivative found in several ways, printed side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import funcgrad
from lecture import pictures
from lecture.scalar import central_difference


def compare(value: Any, loss: Callable[[Any], Any], **ways: Any) -> None:
    """Print each entry of a tensor beside the derivative of the loss, found in several ways.

    Two ways are added: `funcgrad.grad`, and central differences, which know no rules.

    Args:
        value: an array, float64.
        loss: the loss as a function of that array.
        ways: derivatives of the shape of `value`, by the name of the way; an underscore is printed as a
            space.

    Raises:
        AssertionError: where a derivative has another shape than `value`, where two ways differ by more
            than 1e-9 of their size, or where the differences differ by more than 1e-6.

    >>> compare(np.array([3.0]), lambda x: (x**2).sum(), by_hand=np.array([6.0]))
    entry  value  by hand  funcgrad.grad  differences
    [0]        3        6              6            6
    """
    value, automatic = np.asarray(value), np.asarray(funcgrad.grad(loss)(value))
    moved = central_difference(loss, value)
    for name, derivative in ways.items():
        assert np.shape(derivative) == value.shape, (
            f"{name}: a derivative of shape {np.shape(derivative)} for a value of shape {value.shape}"
        )
        np.testing.assert_allclose(derivative, automatic, rtol=1e-9, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(moved, automatic, rtol=1e-6, atol=1e-6, err_msg="differences")

    columns = [np.asarray(way) for way in ways.values()] + [automatic, moved.round(6)]
    rows = [
        (str(list(index)), value[index], *(column[index] for column in columns))
        for index in np.ndindex(value.shape)
    ]
    names = [name.replace("_", " ") for name in ways]
    pictures.table(rows, "entry", "value", *names, "funcgrad.grad", "differences")
