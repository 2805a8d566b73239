"""What taps add to a compiled step of a 12-layer transformer, in counts that noise leaves alone."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import funcgrad
from benchmarks import workloads
from funcgrad import at

LAYERS, WIDTH, LENGTH, BATCH, TOKENS = 12, 32, 16, 2, 64


def transformer_args() -> tuple[Any, Any, Any]:
    """Parameters with stacked layers, and tokens; no number matters."""
    params, *_ = workloads.transformer_args(True)
    shapes = {8: WIDTH, 24: 3 * WIDTH, 32: 4 * WIDTH, 11: TOKENS, 5: LENGTH}
    wider = lambda a: jnp.ones([shapes[n] for n in a.shape], a.dtype) / WIDTH
    params = jax.tree.map(wider, params)
    stacked = jax.tree.map(lambda a: jnp.stack([a] * LAYERS), params["blocks"][0])
    tokens = np.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) % TOKENS
    return {**params, "blocks": stacked}, tokens, tokens


def scanned(params: Any, tokens: Any, targets: Any) -> Any:
    x = params["tokens"][tokens] + params["positions"]
    x, _ = jax.lax.scan(lambda x, p: (workloads.block(p, x), None), x, params["blocks"])
    logits = workloads.dense(params["head"], workloads.layer_norm(params["norm"], x))
    return workloads.cross_entropy(logits, targets)


def test_twelve_layers_cost_what_is_returned():
    """XLA counts a scan's body once: what is added to a step, as a part of a step's work."""
    args = transformer_args()
    taps = {"h": at(function=workloads.block)}
    steps = [funcgrad.value_and_grad(scanned), funcgrad.value_and_grad(scanned, taps=taps)]
    lowered = [jax.jit(step).lower(*args) for step in steps]
    bare, tapped = (one.compile() for one in lowered)
    returned = 2 * 4 * LAYERS * BATCH * LENGTH * WIDTH  # values and cotangents in float32

    found = lowered[1].out_info[2]["h"]
    arrays = (*found.values, *found.cotangents)
    assert sum(a.size * a.dtype.itemsize for a in arrays) == returned

    of_bare, of_tapped = bare.cost_analysis(), tapped.cost_analysis()
    more = {key: of_tapped[key] - of_bare[key] for key in ("flops", "bytes accessed")}
    assert more["flops"] <= 0.005 * of_bare["flops"]
    assert more["bytes accessed"] <= 1.5 * returned
    products = [len(re.findall(r" (?:dot|custom-call)\(", c.as_text())) for c in (bare, tapped)]
    assert products[0] == products[1] > 0

    of_bare, of_tapped = bare.memory_analysis(), tapped.memory_analysis()
    outputs = of_tapped.output_size_in_bytes - of_bare.output_size_in_bytes
    assert returned <= outputs <= returned + 64 * LAYERS
    assert of_tapped.temp_size_in_bytes <= of_bare.temp_size_in_bytes
