"""The table of choices by platform: whole, unchangeable, and read where a choice is made."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import choices


def test_the_table_cannot_be_changed():
    table: Any = choices.BY_PLATFORM
    row: Any = choices.CPU
    with pytest.raises(TypeError):
        table["cpu"] = row
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.room = 0
    with pytest.raises(TypeError):
        row.slow[lax.sin_p] = 1


def test_what_nobody_measured_says_so():
    measured = {name for name, row in choices.BY_PLATFORM.items() if row.measured}
    assert measured == {"cpu"}


@pytest.mark.parametrize("platform", [*choices.BY_PLATFORM, "another"])
def test_each_platform_has_choices(platform, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    found = choices.choices()
    assert found == choices.BY_PLATFORM.get(platform, choices.NOT_MEASURED)
    assert found.unrolled < 2**7  # places in a window are int8


def with_row(monkeypatch, **changes):
    """Another row for this platform, and caches that know nothing of the old one."""
    row = dataclasses.replace(choices.CPU, **changes)
    monkeypatch.setattr(choices, "BY_PLATFORM", {jax.default_backend(): row})
    jax.clear_caches()


def pooled(x):
    window = (2, 2)
    return jnp.sum(jnp.sin(lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")))


def softmax(x):
    return jnp.sum(jnp.cos(jax.nn.softmax(x * x[:, :1])))


def scanned(x):
    step = lambda h, row: (jnp.cos(h) * jnp.sqrt(1.0 + h * h) + row, None)
    return jnp.sum(lax.scan(step, x[0], x)[0])


def bodies(x):
    def step(x, _):
        apart = x[:, None] - x
        return x + 0.1 * jnp.sum(apart * jnp.exp(-jnp.sum(apart**2, -1, keepdims=True)), 1), None

    return jnp.sum(lax.scan(step, x, None, length=3)[0] ** 2)


@pytest.mark.parametrize(
    ("loss", "changes"),
    [
        (pooled, {"unrolled": 1}),
        (softmax, {"late_steps": 0}),
        (scanned, {"room": 0}),
        (bodies, {"short_axis": 0}),
        (scanned, {"room": 0, "bytes_per_operation": 0.0}),
    ],
    ids=["windows", "sums", "memory first", "short axes", "operations for nothing"],
)
def test_a_choice_changes_the_program_and_not_the_gradient(loss, changes, monkeypatch):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6)))
    usual = jax.make_jaxpr(funcgrad.grad(loss))(x)
    with_row(monkeypatch, **changes)
    other = jax.make_jaxpr(funcgrad.grad(loss))(x)
    assert str(other) != str(usual)
    wanted = jax.grad(loss)(x)
    np.testing.assert_allclose(funcgrad.grad(loss)(x), wanted, rtol=1e-5, atol=1e-6)
    jax.clear_caches()
