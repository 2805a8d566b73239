"""Rows for the functions that have a rule of ours."""

from __future__ import annotations

import jax
import numpy as np

from tests.rules.cases import Case, normal

CASES = [
    Case(jax.nn.relu, jax.nn.relu, (normal(3, 4),)),
    Case(jax.nn.relu, lambda x: jax.nn.relu(x[:, None] * x[None]), (normal(3),), "broadcast"),
    Case(jax.nn.relu, jax.nn.relu, (normal(0, 2),), "empty"),
]

SPECIAL = [
    Case(
        jax.nn.relu,
        jax.nn.relu,
        (np.array([0.0, -0.0, np.inf, -np.inf, np.nan]),),
        "special",
        order=1,
        smooth=False,
    ),
]
