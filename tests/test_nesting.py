"""Random nestings of loops, branches, jit, checkpoints, vmap and custom rules against jax.grad.

100 of them; FUNCGRAD_NESTINGS=500 in the environment runs as many, which a release asks for.
"""

from __future__ import annotations

import os
from random import Random

import pytest

from funcgrad.testing.fuzz.generator import generate
from funcgrad.testing.fuzz.many import shrunk
from funcgrad.testing.fuzz.one import check
from funcgrad.testing.fuzz.tastes import LOOPED, NESTED

PART = 10
PARTS = int(os.environ.get("FUNCGRAD_NESTINGS", "100")) // PART
RTOL = 1e-12


@pytest.mark.parametrize("part", range(PARTS))
def test_nestings(part: int) -> None:
    """To first order; one in eight to second, one in eight without jit, one in 25 a while loop."""
    failures = []
    for seed in range(part * PART, (part + 1) * PART):
        program = generate(Random(seed), LOOPED if seed % PART == 0 else NESTED, seed)
        mode, order = ("eager" if seed % 8 == 0 else "once"), 1 + (seed % 8 == 1)
        outcome = check(program, mode, order, RTOL)
        if outcome.failure or outcome.reference:
            fails = lambda p, m=mode, o=order: check(p, m, o, RTOL).failure is not None
            small = shrunk(program, fails) if outcome.failure else program
            failures.append(f"seed {seed}, {mode}, order {order}: {outcome}\n{small.text}")
    assert not failures, "\n\n".join(failures)
