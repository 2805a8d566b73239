"""A sample of the mutation test, whose whole is ``python -m tests.testing.mutations``."""

from __future__ import annotations

import jax
import pytest
from jax import lax

from funcgrad.registry import op_key
from tests.testing import mutations
from tests.testing.mutations import MUTATIONS, NO_EFFECT, operands_of, try_mutation

SAMPLE = {
    "sin": lax.sin_p,
    "mul": lax.mul_p,
    "dot_general": lax.dot_general_p,
    "reduce_max": lax.reduce_max_p,
    "cumsum": lax.cumsum_p,
    "dynamic_slice": lax.dynamic_slice_p,
    "cholesky": lax.linalg.cholesky_p,
    "gather": lax.gather_p,
    "reduce_precision": lax.reduce_precision_p,
    "relu": jax.nn.relu,
}


@pytest.mark.parametrize("name", SAMPLE)
def test_corrupted_rules_are_caught(name):
    op = op_key(SAMPLE[name])
    rule, rows = mutations.rules_of_one_op()[op], mutations.table()[op]
    assert mutations.failures(rule, rows[0]) == ()
    for operand in operands_of(rule, rows):
        for mutation in MUTATIONS:
            result = try_mutation(rule, rows, operand, mutation)
            assert result.caught or (result.survivor, mutation) == (NO_EFFECT, "transposed"), result


def test_the_page_is_of_every_rule():
    if not mutations.PAGE.exists():
        pytest.fail("docs/reliability.md is missing: python -m tests.testing.mutations writes it")
    text = mutations.PAGE.read_text()
    assert "## Mutation test" in text
    assert "NOT EXPLAINED" not in text
