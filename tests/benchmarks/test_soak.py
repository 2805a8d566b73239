"""A little of `benchmarks/soak.py`, by counts of what is alive: nothing is left behind."""

from __future__ import annotations

import collections
import gc
import sys

import jax
import pytest

from benchmarks import soak
from funcgrad.partition.plan import Joint
from funcgrad.partition.split import Split
from funcgrad.rule_program import RuleProgram
from funcgrad.tape import Node, Tape, TapeTracer

KINDS = (Node, Tape, TapeTracer, Split, Joint, RuleProgram)


def alive():
    """How many objects of ours and arrays there are, but for the programs kept to be found again."""
    sys.modules["funcgrad._jax.known"]._first.cache_clear()
    gc.collect()
    kinds = (type(x).__name__ for x in gc.get_objects() if type(x) in KINDS)
    return collections.Counter(kinds) + collections.Counter(arrays=len(jax.live_arrays()))


def test_steps_outside_jit_leave_nothing_behind():
    list(soak.steps(4, parts=1))
    before = alive()
    list(soak.steps(20, parts=1))
    assert alive() == before
    assert before["Split"], "nothing is counted"


def test_functions_that_are_gone_leave_nothing_behind():
    list(soak.functions(6, parts=1))
    before = alive()
    list(soak.functions(12, parts=1))
    assert alive() - before == collections.Counter()


def test_threads_do_not_disturb_each_other():
    assert soak.threads(16, repeats=2) == 0


def test_no_tracer_leaks():
    with jax.checking_leaks():
        jax.jit(jax.vmap(soak.funcgrad.grad(soak.loss), (None, 0)))(soak.PARAMS, soak.X[None])


@pytest.mark.slow
@pytest.mark.release
def test_training_with_checkpoints_leaves_no_arrays_behind(monkeypatch):
    pytest.importorskip("orbax.checkpoint", reason="needs pip install 'funcgrad[training]'")
    pytest.importorskip("grain", reason="needs pip install 'funcgrad[training]'")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    assert len(list(soak.training(60, parts=6))) == 5
