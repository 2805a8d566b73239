"""Every rule of the package has a row in a table; every entry is for something JAX has."""

from __future__ import annotations

import jax
import pytest

import funcgrad
from funcgrad.registry import Rule, op_key
from tests.rules import primitives
from tests.rules.rows import ops_without_rows, rows

ROWS = {op_key(case.op) for _, case in rows()} | ops_without_rows()
RULES = [op for op, entry in funcgrad.DEFAULT.items() if isinstance(entry, Rule)]


@pytest.mark.parametrize("op", RULES, ids=str)
def test_every_rule_has_a_row(op):
    assert op in ROWS, f"the rule of {op} has no row in a table under tests/rules"


@pytest.mark.parametrize("place", primitives.own_primitives())
def test_every_primitive_of_jax_is_accounted_for(place):
    primitive = primitives.own_primitives()[place]
    kind = primitives.kind_of(place, primitive)
    assert kind is not None, f"jax: {place} ({primitive}) has no rule, zero entry or reason"
    assert kind != "fallback", f"jax: {place} ({primitive}) is JAX's own"


def test_the_page_is_up_to_date():
    written = primitives.written_sections()
    if jax.__version__ not in written:
        pytest.skip(f"docs/coverage.md has no table for JAX {jax.__version__}, only {set(written)}")
    assert primitives.section() == written[jax.__version__]


def test_the_list_is_long_and_has_what_everyone_knows():
    names = {primitive.name for primitive in primitives.own_primitives().values()}
    assert len(names) > 250
    assert {"add", "dot_general", "scan", "shard_map", "psum", "svd", "new_ref"} <= names
    assert {"bcoo_todense", "spsolve", "xla_metadata_call"} <= names
