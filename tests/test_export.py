"""Exported gradients, run in a process that has no funcgrad, at batch sizes that were symbols."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import funcgrad
from tests.compare import assert_same
from tests.steps import STEPS, make_params, python_loop

WITHOUT_FUNCGRAD = """
import sys
from pathlib import Path
sys.modules["funcgrad"] = None  # so that importing it fails
import numpy as np
from jax import export
folder = Path(sys.argv[1])
given = np.load(folder / "given.npz")
for file in sorted(folder.glob("*.bin")):
    gradient = export.deserialize(bytearray(file.read_bytes()))
    params = {name: given[name] for name in ("w", "b", "v")}
    for size in (2, 5):
        value, ct_params = gradient.call(params, given[f"x_{size}"])
        np.savez(folder / f"{file.stem}_{size}.npz", value=value, **ct_params)
"""
LOSSES = ("scan", "checkpoint", "overrides", "while")


@pytest.mark.slow(landing=True)
def test_another_process_runs_them_without_funcgrad(tmp_path):
    params = make_params()
    (batch,) = export.symbolic_shape("batch")
    shapes = jax.eval_shape(make_params), jax.ShapeDtypeStruct((batch, 6), jnp.float32)
    rows = {f"x_{n}": np.random.default_rng(n).standard_normal((n, 6)).astype("f4") for n in (2, 5)}
    for name in LOSSES:
        gradient = jax.jit(funcgrad.value_and_grad(STEPS[name].loss, **STEPS[name].options))
        file = tmp_path / f"{name}.bin"
        file.write_bytes(export.export(gradient)(*shapes).serialize())
    np.savez(tmp_path / "given.npz", **params, **rows)
    command = [sys.executable, "-c", WITHOUT_FUNCGRAD, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in LOSSES:
        for size in (2, 5):
            found = np.load(tmp_path / f"{name}_{size}.npz")
            given = params, rows[f"x_{size}"]
            ours = found["value"], {key: found[key] for key in params}
            assert_same(ours, expected(name)(*given), rtol=1e-5, weak=False)


def expected(name: str) -> Callable[..., Any]:
    """By `jax.grad`; with overrides, which it does not know, by funcgrad in this process."""
    if name == "overrides":
        return funcgrad.value_and_grad(STEPS[name].loss, **STEPS[name].options)
    loop = {"loop": python_loop} if name == "while" else {}
    return jax.value_and_grad(partial(STEPS[name].loss, **loop))
