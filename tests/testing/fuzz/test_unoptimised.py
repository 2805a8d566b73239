"""Whose a difference is that shows only where XLA does not optimise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import mlir

import funcgrad
from funcgrad.testing.fuzz import many, unoptimised
from funcgrad.testing.fuzz.programs import Block, Program, Statement, Type
from funcgrad.testing.fuzz.unoptimised import OURS, PROGRAMS, THEIRS, whose_of

doubled = Primitive("doubled")
doubled.def_impl(lambda x: 2 * x)
doubled.def_abstract_eval(lambda x: x)
mlir.register_lowering(doubled, mlir.lower_fun(lambda x: 3 * x, multiple_results=False))

XS = [np.array([0.5, 2.0], np.float32)]


def gradient(scale: float) -> Any:
    return lambda x: ((jnp.sum(jnp.sin(x)), (scale * jnp.cos(x),)),)


def miscompiled(x: Any) -> Any:
    return ((jnp.sum(x), (doubled.bind(x),)),)


def test_the_side_that_compiles_otherwise_is_to_blame() -> None:
    right = gradient(1.0)
    assert whose_of(right, miscompiled, XS, 1e-5) == THEIRS
    assert whose_of(miscompiled, right, XS, 1e-5) == OURS
    assert whose_of(gradient(1.01), right, XS, 1e-5) == PROGRAMS


def test_a_gradient_that_is_lost_in_both_ways_is_the_programs() -> None:
    lost = lambda x: ((jnp.sum(jnp.sin(x)), (jnp.nan * x,)),)
    assert whose_of(lost, gradient(1.0), XS, 1e-5) == PROGRAMS


def program_of(text: str) -> Program:
    kind = Type((2,), "float64")
    block = Block(
        "a0",
        "",
        (("a0", kind),),
        (Statement(("v1",), (kind,), text, ("a0",)),),
        ("v1",),
        "weigh({0})",
    )
    return Program((("a0", kind),), block)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "wrong", "kind"),
    [
        ("jnp.sin({0})", jax.lax.sin_p, unoptimised.PROGRAMS),
        ("jnp.hypot(jnp.sin({0}), 1.0)", jax.lax.sin_p, unoptimised.PROGRAMS),
        ("jnp.hypot(jnp.sin({0}), 1.0)", jax.lax.min_p, unoptimised.HYPOT),  # a hypot takes it
    ],
)
def test_a_program_that_differs_is_written_and_one_that_a_hypot_explains_is_counted(
    text: str, wrong: Any, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rule = funcgrad.defvjp(wrong, optional=True)(lambda ct, *xs, **_: tuple(2 * ct for _ in xs))
    rules = funcgrad.DEFAULT.override({wrong: rule})
    right = funcgrad.value_and_grad
    monkeypatch.setattr(
        funcgrad, "value_and_grad", lambda *a, **k: right(*a, **k, rules=rules)
    )  # fmt: skip
    monkeypatch.setattr(many, "confirmed", lambda *_: False)  # an optimising XLA sees no difference
    monkeypatch.setattr(many, "shrunk", lambda program, fails: program if fails(program) else None)
    counts = many.report(program_of(text), "once", 1, str(tmp_path))
    assert counts == {f"{many.UNOPTIMISED}: {kind}": 1}
    assert f"{kind}: 1" in many.summary(counts, 0.0)
    written = [path.read_text() for path in tmp_path.glob("unoptimised_0.py")]
    assert len(written) == (kind == unoptimised.PROGRAMS)
    assert all("jnp.sin(a0)" in text for text in written)
