"""What a profile shows of a gradient: the user's scopes and rules, and the ops that are pulled back."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import funcgrad


def halved_tanh_vjp(ct: Any, x: Any, *, out: Any, **_: Any) -> Any:
    return ct * (1 - out**2) / 2


RULES = funcgrad.DEFAULT.override({jax.lax.tanh_p: halved_tanh_vjp})


def loss(w: jax.Array, x: jax.Array) -> jax.Array:
    def layer(h: jax.Array, _: None) -> tuple[jax.Array, None]:
        with jax.named_scope("mlp"):
            return jnp.tanh(h @ w), None

    with jax.named_scope("encoder"):
        h, _ = jax.lax.scan(layer, x, length=2)
    with jax.named_scope("head"):
        return jnp.sum((h @ w) ** 2)


def program(rules: Any = funcgrad.DEFAULT) -> Any:
    args = jnp.eye(64) / 2, jnp.ones((64, 64))
    return jax.jit(funcgrad.grad(loss, rules=rules)).lower(*args).compile(), args


def names_in(text: str) -> dict[str, str]:
    """Of each operation of a compiled program the name that profiles show."""
    return dict(re.findall(r'^ *(?:ROOT )?%([\w.-]+) = .*op_name="([^"]*)"', text, re.M))


@pytest.mark.parametrize("rules", [funcgrad.DEFAULT, RULES], ids=["own", "a user's"])
def test_operations_are_named_after_the_scope_and_the_op_that_they_pull_back(rules):
    names = "\n".join(names_in(program(rules)[0].as_text()).values())
    inside = r"encoder/vjp_of_scan\(jit\(backward\)\)/while/body/(?:\w+/)?mlp/"
    rule = "by_halved_tanh_vjp()" if rules is RULES else ""
    assert re.search(r"encoder/jit\(forward\)/while/body/(?:\w+/)?mlp/tanh", names)
    assert re.search(inside + r"vjp_of_dot_general\(\)/dot_general", names)
    assert re.search(inside + re.escape(f"vjp_of_tanh({rule})/"), names)
    assert "head/vjp_of_dot_general()/dot_general" in names


@pytest.mark.slow(landing=True)
def test_a_trace_of_a_step_times_operations_of_these_names(tmp_path):
    step, args = program()
    names = names_in(step.as_text())
    jax.block_until_ready(step(*args))
    with jax.profiler.trace(str(tmp_path), create_perfetto_trace=True):
        jax.block_until_ready(step(*args))
    (file,) = tmp_path.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    run = [event for event in events if "hlo_op" in event.get("args", {})]
    seen = {names.get(event["args"]["hlo_op"], "") for event in run}
    assert any("encoder/jit(forward)/while/body" in name for name in seen)
    assert any("vjp_of_scan(jit(backward))/while/body" in name for name in seen)
    assert any("mlp/vjp_of_dot_general()" in name for name in seen)


@pytest.mark.slow(landing=True)
def test_a_trace_of_a_gradient_without_jit_shows_each_rule(tmp_path):
    args = jnp.eye(4), jnp.ones((4, 4))
    gradient = funcgrad.grad(lambda w, x: jnp.sum(jax.lax.tanh(jax.lax.dot(x, w))), rules=RULES)
    jax.block_until_ready(gradient(*args))
    with jax.profiler.trace(str(tmp_path), create_perfetto_trace=True):
        jax.block_until_ready(gradient(*args))
    (file,) = tmp_path.rglob("perfetto_trace.json.gz")
    text = gzip.decompress(file.read_bytes()).decode()
    run = set(re.findall(r'"hlo_module": "([^"]*)"', text))
    assert {"jit_halved_tanh_vjp", "jit_dot_general_vjp"} <= run
