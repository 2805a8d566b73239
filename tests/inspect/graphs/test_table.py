"""A graph as a text table."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from funcgrad.inspect import graph
from tests.inspect.graphs import models
from tests.inspect.graphs.models import W, X


def cells(text):
    """The rows without their spaces."""
    return [" ".join(row.split()) for row in text.splitlines()]


def test_the_lecture():
    title, head, *rows = cells(str(graph(models.lecture, 0.5, 2.0)))
    assert title == "graph of lecture: 5 operations, returns b"
    assert head == "name type operation reads line"
    assert rows[:2] == ["w f32[] argument", "x f32[] argument"]
    assert rows[3].startswith("1 h f32[] tanh a models.py:")


def test_what_is_inside_a_loop_is_indented():
    lines = str(graph(models.recurrent, W, X)).splitlines()
    (tanh,) = [line for line in lines if " tanh " in line]
    (loop,) = [line for line in lines if " scan " in line]
    assert len(tanh) - len(tanh.lstrip("0123456789 ")) > len(loop) - len(loop.lstrip("0123456789 "))


def deep(x):
    """Twenty layers of two blocks of five operations."""
    for i in range(20):
        with jax.named_scope(f"layer_{i}"):
            for part in ("first", "second"):
                with jax.named_scope(part):
                    for _ in range(5):
                        x = jnp.sin(x)
    return x


def test_a_long_table_is_collapsed_by_scope():
    rows = cells(str(graph(deep, X, values=False)))
    assert "0-4 layer_0/first 5 operations" in rows
    assert len(rows) < 50
    longer = lambda x: deep(deep(x))
    rows = cells(str(graph(longer, X, values=False)))
    assert "0-9 layer_0 10 operations" in rows
    assert len(rows) < 70


def test_operations_without_a_scope_are_cut_in_the_middle():
    def flat(x):
        for _ in range(500):
            x = jnp.sin(x)
        return x

    rows = cells(str(graph(flat, X, values=False)))
    assert "… 440 more rows" in rows
    assert len(rows) < 70


def test_what_is_left_out_is_said():
    assert str(graph(deep, X, values=False)).endswith("No numbers: values=False.")


def test_repr_is_short():
    assert repr(graph(models.lecture, 0.5, 2.0)) == "<graph of lecture: 5 operations, 8 values>"


def test_of_a_long_name_both_ends_are_shown():
    args = {"a_block_of_a_transformer": {"dense": {"kernel": X, "bias": X}}}
    printed = str(graph(lambda p: p["a_block_of_a_transformer"]["dense"]["kernel"].sum(), args))
    assert "p['a_block_of_a_tra…]['dense']['kernel']" in printed
    assert "'bias']" in printed
