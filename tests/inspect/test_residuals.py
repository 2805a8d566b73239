"""The ledger of what is kept, against pullbacks, XLA, jax.vjp, and arrays that are watched."""

from __future__ import annotations

import sys
import weakref

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import funcgrad
from funcgrad.inspect import residuals
from tests.inspect.ledger.programs import (
    PROGRAMS,
    WS,
    W,
    X,
    bytes_of,
    chain,
    newton,
    offloaded,
    scanned,
)
from tests.meshes import mesh_of

PLAIN = {"compiled": False, "suggest": False}


def loss(w, x):
    return jnp.sum(jnp.exp(jnp.tanh(x @ w)))


# --- totals


@pytest.mark.parametrize("name", PROGRAMS)
def test_total_is_what_a_pullback_holds(name):
    fun, *args = PROGRAMS[name]
    ledger = residuals(jax.jit(fun), *args, **PLAIN)
    pullback = funcgrad.vjp(jax.jit(fun), *args)[1]  # outside jit
    assert ledger.in_pullback == bytes_of(pullback)
    within = jax.jit(lambda *args: funcgrad.vjp(fun, *args)[1])(*args)
    unjitted = residuals(fun, *args, **PLAIN)
    assert unjitted.in_pullback == bytes_of(within)
    kept = unjitted.kept + sum(entry.bytes for entry in unjitted.of("offloaded", "constant"))
    assert kept == bytes_of(within.opaque_residuals)
    assert unjitted.arguments == bytes_of(within.args_res)


def test_an_array_that_several_rules_read_counts_once():
    ledger = residuals(lambda x: jnp.sum(jnp.sin(x * x) * jnp.cos(x * 2)), X, **PLAIN)
    ops = [sorted(ask.op for ask in entry.asked_by) for entry in ledger.of("kept")]
    assert ["mul", "sin"] not in ops
    twice = residuals(lambda x: jnp.sum(jnp.tanh(y := jnp.exp(x)) * jnp.sin(y)), X, **PLAIN)
    (entry,) = [entry for entry in twice.of("kept") if entry.op == "exp"]
    assert {str(ask).split(" at")[0] for ask in entry.asked_by} == {
        "exp (output 0)",
        "sin (operand 0)",
    }
    assert entry.bytes == X.nbytes


@pytest.mark.parametrize("name", ["chain", "scan", "softmax", "custom_vjp"])
def test_jax_keeps_what_its_own_pullback_holds(name):
    fun, *args = PROGRAMS[name]
    pullback = jax.jit(lambda *args: jax.vjp(fun, *args)[1])(*args)
    found = residuals(fun, *args, **PLAIN).kept_by_jax
    assert found == bytes_of(pullback.opaque_residuals)  # the arguments lie apart


def test_a_function_that_jax_cannot_differentiate():
    ledger = residuals(newton, X, **PLAIN)
    assert ledger.kept_by_jax is None
    assert "while_loop" in ledger.jax_problem
    assert "jax.grad cannot" in str(ledger)


BIG = jnp.ones((256, 64)) / 8


@pytest.mark.parametrize("fun", [chain, scanned], ids=["chain", "scan"])
def test_within_a_factor_of_three_of_what_xla_allocates(fun):
    ledger = residuals(fun, jnp.stack([jnp.eye(64)] * 12), BIG, suggest=False)
    assert ledger.temp_size_in_bytes is not None
    assert 1 / 3 < ledger.kept / ledger.temp_size_in_bytes < 3


# --- who made and who reads an array, and until when


def test_entries_of_a_small_function():
    ledger = residuals(loss, W, X, **PLAIN)
    found = [
        (e.status, e.op or e.name, [(a.op, a.operand) for a in e.asked_by], e.freed)
        for e in ledger.residuals
    ]
    assert sorted(found, key=lambda row: row[1]) == [
        ("kept", "exp", [("exp", "output 0")], 2),  # step 1 pulls back the sum
        ("kept", "tanh", [("tanh", "output 0")], 3),
        ("argument", "w", [("dot_general", "operand 1")], None),
        ("argument", "x", [("dot_general", "operand 0")], None),
    ]
    assert ledger.steps == 4
    assert all(e.asked_by[0].rule.startswith(f"{e.op}_vjp at ") for e in ledger.of("kept"))
    line = loss.__code__.co_firstlineno + 1
    for entry in ledger.of("kept"):
        assert entry.where is not None
        assert f"test_residuals.py:{line}:" in entry.where


class Watch:
    """Keeps weak references to residuals, and notes which are gone at each step of the way back."""

    def __init__(self):
        self.seen: dict[int, tuple[weakref.ref, int]] = {}
        self.alive: list[int] = []

    def recorded(self, node, outs):
        for x in node.residuals:
            if isinstance(x, jax.Array):
                self.seen.setdefault(id(x), (weakref.ref(x), x.nbytes))

    def pulled(self, node, cts, results):
        self.alive.append(sum(size for ref, size in self.seen.values() if ref() is not None))
        return results


def test_arrays_are_freed_when_the_ledger_says():
    def fun(x):
        h = jax.lax.tanh(jax.lax.exp(jax.lax.sin(x)))
        return jax.lax.reduce_sum(jax.lax.mul(h, jax.lax.cos(h)), axes=(0, 1))

    ledger = residuals(fun, X, **PLAIN)
    watch = Watch()
    funcgrad.grad(fun, rules=funcgrad.DEFAULT.observed_by(watch))(X)
    # the watch looks while a node's residuals are still held: at the bytes after the step before
    assert watch.alive == [held + X.nbytes for held in ledger.alive()[:-1]]


def test_lines_in_jitted_functions_of_jax_are_those_of_the_call():
    def first(x):
        return jnp.sum(jnp.where(x > 1, jnp.log1p(x), 0.0))

    def second(x):
        return jnp.sum(jnp.where(x > 1, jnp.log1p(x), 0.0))

    residuals(
        first, X, **PLAIN
    )  # JAX traces where and log1p, with these lines, and keeps the trace
    lines = {entry.where for entry in residuals(second, X, **PLAIN).of("kept")}
    line = second.__code__.co_firstlineno + 1
    assert lines
    assert all(where and f":{line}:" in where and "(test_" in where for where in lines), lines


def test_scopes():
    def fun(x):
        for i in range(2):
            with jax.named_scope(f"layer_{i}"):
                x = jax.jit(jnp.tanh)(x)
        return jnp.sum(x)

    assert {entry.scope for entry in residuals(fun, X, **PLAIN).of("kept")} == {
        "layer_0",
        "layer_1",
    }


# --- what is not kept


def test_a_checkpoint_computes_again():
    ledger = residuals(jax.checkpoint(loss), W, X, **PLAIN)
    assert ledger.kept == 0
    again = {entry.op: entry for entry in ledger.of("recomputed")}
    assert {op: entry.bytes for op, entry in again.items()} == {"tanh": X.nbytes, "exp": X.nbytes}
    assert again["tanh"].other_bytes == X.nbytes
    assert again["tanh"].other_operations == -10 * X.size  # see partition/costs.py
    (region,) = ledger.regions
    assert region.estimate.kept == 0
    assert "checkpoints:" in str(ledger)


def test_offloaded():
    ledger = residuals(offloaded, W, X, **PLAIN)
    assert [entry.op for entry in ledger.of("offloaded")] == ["dot_general"] * 2
    assert all(ask.waits == "pinned_host" for e in ledger.of("offloaded") for ask in e.asked_by)
    assert ledger.kept == 0


def test_a_scan_by_step():
    ledger = residuals(scanned, WS, X, **PLAIN)
    stacks = [entry for entry in ledger.of("kept") if entry.steps]
    assert stacks
    assert all(entry.shape == (6, *X.shape) and entry.steps == 6 for entry in stacks)
    assert all(entry.bytes_per_step == X.nbytes for entry in stacks)
    assert all(entry.freed == max(e.freed or 0 for e in stacks) for entry in stacks)


def test_a_scan_puts_sums_off():
    fun, w, xs = PROGRAMS["recurrent"]
    ledger = residuals(fun, w, xs, **PLAIN)
    put_off = {entry.shape for entry in ledger.of("put off")}
    # ct_w is the product of the stacks of [h, x] and of the cotangents of z
    assert (20, 32) in put_off
    entry = max(ledger.of("put off"), key=lambda e: e.shape == (20, 32))
    assert entry.bytes == 20 * 32 * 4
    assert entry.other_operations == 20 * w.size  # additions


def test_a_while_loop_keeps_snapshots():
    with funcgrad.loops(checkpoints=4):
        ledger = residuals(newton, X, **PLAIN)
    big = [entry for entry in ledger.of("kept") if entry.shape == (4, *X.shape)]
    assert [entry.op for entry in big] == ["div", "div"]
    assert "snapshots of a carry" in str(ledger)
    assert "again: the steps of a while loop" in str(ledger)


# --- arguments of all kinds


def test_abstract_arguments():
    types = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (W, X))
    assert residuals(loss, *types).residuals == residuals(loss, W, X).residuals


@pytest.mark.parametrize("abstract", [False, True], ids=["arrays", "types"])
def test_sharded_arrays(abstract):
    mesh = mesh_of(d=8)
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("d",), ()))
    w, x = jax.device_put(W, whole), jax.device_put(X, rows)
    pullback = jax.jit(lambda w, x: funcgrad.vjp(loss, w, x)[1])(w, x)
    if abstract:
        w = jax.ShapeDtypeStruct(w.shape, w.dtype, sharding=whole)
        x = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
    ledger = residuals(loss, w, x, suggest=False)
    shards = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(pullback)]
    assert sum(entry.bytes_per_device for entry in ledger.residuals) == sum(shards)
    assert ledger.in_pullback == bytes_of(pullback)
    assert ledger.kept_per_device == ledger.kept // 8
    assert "on each of 8" in str(ledger)


def test_overridden_rules_are_named():
    def clipped_vjp(ct, x, *, out, **_):
        return ct * jnp.clip(x, 0, 1)

    rules = funcgrad.DEFAULT.override({jax.lax.tanh_p: clipped_vjp})
    ledger = residuals(loss, W, X, rules=rules, **PLAIN)
    (ask,) = [ask for e in ledger.residuals for ask in e.asked_by if ask.op == "tanh"]
    assert ask.rule.startswith("clipped_vjp at ")
    assert ask.operand == "operand 0"


# --- shown


def test_the_table_is_sorted_and_bounded():
    ledger = residuals(lambda x: jnp.sum(chain([W] * 12, x)), X, **PLAIN)
    sizes = [entry.bytes for entry in ledger.residuals]
    assert sizes == sorted(sizes, reverse=True)
    lines = str(ledger).splitlines()
    assert len(lines) < 30
    left = len(ledger.residuals) - 20
    assert any(line.startswith(f"... and {left} smaller ones") for line in lines)


def test_to_pandas():
    pytest.importorskip("pandas")
    ledger = residuals(scanned, WS, X, **PLAIN)
    frame = ledger.to_pandas()
    assert len(frame) == len(ledger.residuals)
    assert frame[frame.status == "kept"].bytes.sum() == ledger.kept
    assert (frame.bytes_per_step * frame.steps.fillna(1) == frame.bytes).all()
    assert frame.rules.str.contains("_vjp at ").any()


@pytest.mark.parametrize(
    ("package", "show"), [("pandas", "to_pandas"), ("matplotlib", "to_figure")]
)
def test_a_package_that_is_missing(monkeypatch, package, show):
    for name in [package, "matplotlib.figure"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        getattr(residuals(loss, W, X, **PLAIN), show)()


def test_no_arguments_that_are_read():
    ledger = residuals(lambda x: jnp.sum(x * 2), X, **PLAIN)
    assert ledger.kept == 0
    assert ledger.in_pullback == bytes_of(funcgrad.vjp(lambda x: jnp.sum(x * 2), X)[1])
    assert "0 B kept in 0 arrays" in str(ledger)
