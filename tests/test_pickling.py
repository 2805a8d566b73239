"""Pullbacks copied and pickled: equal to jax.vjp's, in this process and in another, or an error."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcgrad
from funcgrad import errors
from funcgrad.by_name import Named
from tests.compare import assert_same
from tests.steps import STEPS, X, make_params

ROOT = Path(__file__).parents[1]
SCALES = np.arange(6.0, dtype=np.float32)
POWER = 2


def scaled(params: Any, x: Any) -> Any:
    """Reads an array of its module, which is kept for the way back, and a number, which is not."""
    return jnp.sum(jnp.tanh(x @ params["w"]) * SCALES) ** POWER


def dropped(params: Any, x: Any, key: Any) -> Any:
    """Keeps a random key for the way back."""

    def layer(h: Any, key: Any) -> tuple[Any, None]:
        keep = jax.random.bernoulli(key, 0.5, h.shape)
        return jnp.where(keep, jnp.tanh(h @ params["w"]), 0), None

    return jnp.mean(lax.scan(jax.checkpoint(layer), x, jax.random.split(key, 3))[0] ** 2)


def power(x: Any, n: float, scale: float = 1.0, *, bias: float = 0.0) -> Any:
    return scale * jnp.sin(x) ** n + bias


def bent(x: Any) -> Any:
    return jnp.sin(x) if x > 1 else x


def talking(x: Any) -> Any:
    jax.debug.print("{x}", x=x)
    return jnp.sin(x)


def waves(x: Any) -> Any:
    return jnp.sin(jnp.tanh(x))


@funcgrad.defvjp(lax.tanh_p)
def third_tanh_vjp(ct: Any, x: Any, *, out: Any, **_: Any) -> Any:
    return ct / 3


def fifth_sin_vjp(ct: Any, x: Any, *, original: Any, **kwargs: Any) -> Any:
    return original(ct, x, **kwargs) / 5


RULES = funcgrad.DEFAULT.override({lax.tanh_p: third_tanh_vjp, lax.sin_p: fifth_sin_vjp})


def taken(fun: Any, *args: Any, **options: Any) -> Any:
    """The pullback of a function, taken under jit."""
    return jax.jit(lambda *args: funcgrad.vjp(fun, *args, **options)[1])(*args)


def again(pullback: Any) -> Any:
    return pickle.loads(pickle.dumps(pullback))


def args() -> tuple[Any, Any]:
    return make_params(), jnp.asarray(X)


def test_a_pullback_that_was_not_taken_under_jit():
    pullback = funcgrad.vjp(scaled, *args())[1]
    found = again(pullback)
    assert_same(found(1.0), pullback(1.0), rtol=0)
    assert_same(again(found)(1.0), pullback(1.0), rtol=0)
    by_rules = funcgrad.vjp(waves, jnp.ones(3), rules=RULES)[1]
    (ct_x,) = again(by_rules)(jnp.ones(3))
    np.testing.assert_allclose(ct_x, np.full(3, np.cos(np.tanh(1)) / 15), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "scan", "while", "budget", "branches"])
def test_a_pullback_of_any_structure_that_was_not_taken_under_jit(name):
    pullback = funcgrad.vjp(STEPS[name].loss, *args())[1]
    assert_same(again(pullback)(1.0), pullback(1.0), rtol=0)


@pytest.mark.slow
def test_random_keys_and_weak_numbers_without_jit():
    pullback = funcgrad.vjp(dropped, *args(), jax.random.key(3))[1]
    assert_same(again(pullback)(1.0), pullback(1.0), rtol=0)
    pullback = funcgrad.vjp(power, jnp.asarray(2.0), 3.0, jnp.sin(1.0))[1]
    assert_same(again(pullback)(1.0), pullback(1.0), rtol=0)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, again])
def test_a_copy_is_jax_grads_too(copied):
    pullback = taken(scaled, *args())
    found = copied(pullback)
    assert_same(found(1.0), jax.vjp(scaled, *args())[1](jnp.float32(1.0)), rtol=1e-5)
    assert repr(found) == repr(pullback)


def test_a_deep_copy_has_arrays_of_its_own_and_a_copy_has_not():
    _, pullback = funcgrad.vjp(
        lambda x: jnp.sin(x) * jnp.cos(x), jnp.ones(2)
    )  # copying needs no name
    pairs = zip(
        *map(jax.tree.leaves, (pullback, copy.copy(pullback), copy.deepcopy(pullback))), strict=True
    )
    assert [(b is a, c is a) for a, b, c in pairs] == [(True, False)] * len(
        jax.tree.leaves(pullback)
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("mlp", "scan", "while", "budget", "branches")
    ],
)
def test_a_pullback_of_any_structure(name):
    pullback = taken(STEPS[name].loss, *args())
    assert_same(again(pullback)(1.0), pullback(1.0), rtol=0)


def test_overridden_rules_are_found_by_name():
    jax.clear_caches()  # the rules are known by their functions, not by what a cache remembers
    pullback = taken(waves, jnp.ones(3), rules=RULES)
    (ct_x,) = again(pullback)(jnp.ones(3))
    np.testing.assert_allclose(ct_x, np.full(3, np.cos(np.tanh(1)) / 15), rtol=1e-6)
    assert_same((ct_x,), pullback(jnp.ones(3)), rtol=0)


@pytest.mark.slow
def test_rules_at_some_places_are_found_by_name():
    placed = funcgrad.DEFAULT.override({lax.tanh_p: third_tanh_vjp}, at=funcgrad.at("hidden"))
    pullback = taken(STEPS["mlp"].loss, *args(), rules=placed)
    found = again(pullback)(1.0)
    assert_same(found, pullback(1.0), rtol=0)
    assert not np.allclose(found[0]["w"], jax.grad(STEPS["mlp"].loss)(*args())["w"])


def test_options_of_vjp_are_kept():
    fixed = functools.partial(power, bias=1.0)
    expected = jax.vjp(fixed, jnp.ones(2), 3.0, 2.0)[1](jnp.ones(2))
    for options in ({"saveable_args": False}, {"in_nzs": (True, False, True)}):
        pullback = taken(fixed, jnp.ones(2), 3.0, 2.0, **options)
        found = again(pullback)
        if "saveable_args" in options:
            with pytest.raises(errors.CotangentError, match="NotSaveable"):
                found(jnp.ones(2))
            found.args_res = [jnp.ones(2), jnp.float32(3), jnp.float32(2)]
            assert_same(found(jnp.ones(2)), expected, rtol=1e-6, weak=False)
        else:
            assert found.out_nzs is True
            assert_same(found(jnp.ones(2))[0], expected[0], rtol=1e-6, weak=False)
    assert again(taken(power, jnp.ones(2), 3.0).with_logs)(jnp.ones(2))[1] == {}


# --- errors


def test_what_cannot_be_pickled_says_why():
    params, x = args()
    lambda_rule = funcgrad.DEFAULT.override({lax.tanh_p: lambda ct, x, **_: ct})
    for pullback, message in (
        (taken(lambda x: x * 2, 1.0), "<lambda>`, cannot be found by its name.*`def` at the top"),
        (taken(functools.partial(scaled, params), x), "fixes more than numbers"),
        (funcgrad.vjp(bent, 2.0)[1], "cannot be run on zeros.*boolean conversion"),
        (funcgrad.vjp(talking, 2.0)[1], "cannot be run on zeros.*effects, such as a print"),
        (funcgrad.vjp(scaled, params, x, taps={"t": funcgrad.at(op="tanh")})[1], "taps or edits"),
        (taken(scaled, params, x, rules=lambda_rule), "the rule, .*<lambda>`, cannot be found"),
        (taken(scaled, params, x, rules=funcgrad.DEFAULT.observed_by(Silent())), "a tool observes"),
    ):
        with pytest.raises(errors.PickleError, match=message):
            pickle.dumps(pullback)


class Silent:
    def recorded(self, node: Any, outs: Any) -> None:
        pass

    def pulled(self, node: Any, cts: Any, results: Any) -> Any:
        return results


def test_a_traced_pullback_cannot_be_pickled():
    def step(x: Any) -> Any:
        pickle.dumps(funcgrad.vjp(power, x, 2.0)[1])

    with pytest.raises(errors.PickleError, match=r"traced value.*outside jax.jit"):
        jax.jit(step)(1.0)


@pytest.mark.parametrize(("name", "value"), [("POWER", 3), ("scaled", STEPS["mlp"].loss)])
def test_a_function_that_has_changed_since_is_an_error(name, value, monkeypatch):
    saved = pickle.dumps(taken(scaled, *args()))
    monkeypatch.setattr(sys.modules[__name__], name, value)
    with pytest.raises(errors.PickleError, match=r"gives another program.*Load it with the code"):
        pickle.loads(saved)


def test_an_array_that_has_changed_since_was_saved_as_it_was(monkeypatch):
    pullback = taken(scaled, *args())
    saved = pickle.dumps(pullback)
    monkeypatch.setattr(sys.modules[__name__], "SCALES", SCALES + 1)
    assert_same(pickle.loads(saved)(1.0), pullback(1.0), rtol=0)


def test_a_function_that_is_gone_is_an_error(monkeypatch):
    saved = pickle.dumps(taken(scaled, *args()))
    monkeypatch.delattr(sys.modules[__name__], "scaled")
    with pytest.raises(
        errors.PickleError, match=r"asks for `tests.test_pickling.scaled`, and there is none"
    ):
        pickle.loads(saved)


def test_a_name_is_looked_up_where_it_says():
    assert Named("jax.lax", "scan").found() is lax.scan
    with pytest.raises(errors.PickleError, match="no_such_module"):
        Named("no_such_module", "f").found()


# --- another process

LOADING = """
import pickle, sys, numpy as np, jax
results = [pickle.load(open(path, "rb"))(1.0) for path in sys.argv[2:]]
np.savez(sys.argv[1], *jax.tree.leaves([r[:2] for r in results]))
"""


@pytest.mark.slow(landing=True)
def test_another_process_pulls_back(tmp_path):
    key = jax.random.key(3)
    pullbacks = {
        "scaled": (taken(scaled, *args()), scaled, args()),
        "dropped": (taken(dropped, *args(), key), dropped, (*args(), key)),
        "scan": (taken(STEPS["scan"].loss, *args()), STEPS["scan"].loss, args()),
    }
    files = [tmp_path / f"{name}.pickle" for name in pullbacks]
    for file, (pullback, _, _) in zip(files, pullbacks.values(), strict=True):
        file.write_bytes(pickle.dumps(pullback))
    out = tmp_path / "cts.npz"
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(out), *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = [
        jax.grad(fun, (0, 1), allow_int=True)(*given) for _, fun, given in pullbacks.values()
    ]
    found = np.load(out)
    for i, ct in enumerate(jax.tree.leaves(expected)):
        np.testing.assert_allclose(found[f"arr_{i}"], ct, rtol=2e-5, atol=1e-6)
