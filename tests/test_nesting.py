"""Random nestings of loops, branches, jit, checkpoints, vmap and custom rules against jax.grad."""

from __future__ import annotations

from random import Random

import pytest

from funcgrad.testing import fuzz
from funcgrad.testing.generator import generate
from funcgrad.testing.tastes import LOOPED, NESTED

PART, PARTS = 25, 20
RTOL = 1e-12


@pytest.mark.parametrize("part", range(PARTS))
def test_nestings(part: int) -> None:
    """To first order; one in eight to second, one in eight without jit, one in 25 a while loop."""
    failures = []
    for seed in range(part * PART, (part + 1) * PART):
        program = generate(Random(seed), LOOPED if seed % PART == 0 else NESTED, seed)
        mode, order = ("eager" if seed % 8 == 0 else "once"), 1 + (seed % 8 == 1)
        outcome = fuzz.check(program, mode, order, RTOL)
        if outcome.failure or outcome.reference:
            small = fuzz.shrunk(program, mode, order, rtol=RTOL) if outcome.failure else program
            failures.append(f"seed {seed}, {mode}, order {order}: {outcome}\n{small.text}")
    assert not failures, "\n\n".join(failures)
