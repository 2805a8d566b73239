"""Counts of a sharded step: the counting itself, and a small transformer beside jax.grad."""

from __future__ import annotations

import jax
import pytest

import funcgrad
from benchmarks.chips import SMALL, collectives, measure, table
from funcgrad import _jax

PROGRAM = """\
HloModule jit_step

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %all-gather.1 = f32[8,4]{1,0} all-gather(%x), dimensions={0}
  %pair = (f32[2]{0}, bf16[3]{0}) all-reduce(%a, %b), to_apply=%add
}

%condition (p: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[1,4]) -> f32[] {
  %loop = (s32[], f32[8,4]) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"12"}}
  ROOT %all-reduce.2 = f32[] all-reduce(%y), to_apply=%add
}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}
"""


def test_a_collective_in_a_loop_counts_as_often_as_it_runs():
    found = collectives(PROGRAM)
    assert found.runs == {"all-gather": 12, "all-reduce": 13}
    assert found.bytes == 12 * (8 * 4 * 4 + 2 * 4 + 3 * 2) + 4


def test_a_loop_of_unknown_length_with_collectives_is_an_error():
    with pytest.raises(ValueError, match="unknown length"):
        collectives(PROGRAM.replace("known_trip_count", "other"))


@pytest.mark.slow(landing=True)
def test_no_device_receives_or_keeps_more_than_with_jax_grad():
    ours, reference = (measure(by.value_and_grad, SMALL, 8) for by in (funcgrad, jax))
    assert ours.temporary <= reference.temporary
    for kind in ("all-gather", "reduce-scatter", "collective-permute"):
        assert ours.collectives.runs.get(kind, 0) <= reference.collectives.runs.get(kind, 0)
    sums, of_reference = (row.collectives.runs["all-reduce"] for row in (ours, reference))
    more = 0 if _jax.BARRIERS_HOLD else sums - of_reference
    # scalars: each tie of a checkpoint to a cotangent reads one element, on CPUs alone
    assert more <= 6 * SMALL.layers
    assert sums <= of_reference + more
    assert ours.collectives.bytes <= reference.collectives.bytes + 8 * more
    assert table([(ours, reference)]).count("\n") == 2
