"""A run that is interrupted, killed or resumed ends as one that is not."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcgrad

ADAM = optax.adam(1e-2)


class Interruption(Exception):
    """Ends a run at a step."""


@pytest.fixture
def run(tmp_path):
    """A run of 12 steps with noise from a key, which may end before a step."""
    import loop
    import options

    def started(*arguments, before=None):
        asked = options.parser("Train.", steps=12, batch=4, every=5).parse_args(
            ["--out", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "saved"), *arguments]
        )
        params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
        state = {
            "params": params,
            "optimiser": ADAM.init(params),
            "key": jax.random.key(asked.seed),
        }

        def batch_of(number):
            if number == before:
                raise Interruption
            rng = np.random.default_rng((asked.seed, number))
            return rng.normal(size=(asked.batch, 3)).astype(np.float32)

        return loop.run(step, state, batch_of, asked, title="noise")

    return started


def step(state, x):
    key, noise = jax.random.split(state["key"])

    def loss(params):
        y = jnp.tanh(x @ params["w"]) + params["b"]
        return jnp.mean((y - jax.random.normal(noise, y.shape)) ** 2)

    value, gradient = funcgrad.value_and_grad(loss)(state["params"])
    updates, optimiser = ADAM.update(gradient, state["optimiser"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "optimiser": optimiser, "key": key}, {"loss": value}


def metrics(folder: Path) -> list[dict[str, float]]:
    return [
        json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()
    ]


def test_a_run_is_that_of_a_python_loop(run, tmp_path):
    found = run()
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    state = {"params": params, "optimiser": ADAM.init(params), "key": jax.random.key(0)}
    losses = []
    for number in range(12):
        x = np.random.default_rng((0, number)).normal(size=(4, 3)).astype(np.float32)
        state, values = jax.jit(step)(state, x)
        losses.append({"step": number + 1, "loss": float(values["loss"])})
    np.testing.assert_array_equal(found["params"]["w"], state["params"]["w"])
    assert metrics(tmp_path) == losses
    assert (tmp_path / "out" / "metrics.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("before", [3, 5, 11])
def test_an_interrupted_run_ends_as_an_unbroken_one(run, tmp_path, before):
    with pytest.raises(Interruption):
        run(before=before)
    # steps after the last checkpoint were written down and are taken again
    assert len(metrics(tmp_path)) in (before - 1, before)
    resumed, lines = run(), metrics(tmp_path)
    unbroken = run(
        "--out", str(tmp_path / "unbroken" / "out"), "--checkpoint", str(tmp_path / "other")
    )
    for x, y in zip(jax.tree.leaves(resumed), jax.tree.leaves(unbroken), strict=True):
        assert jnp.array_equal(x, y)
    assert lines == metrics(tmp_path / "unbroken")


def test_a_complete_run_takes_no_more_steps(run):
    first = run()
    again = run(before=0)  # no batch is asked for
    assert jnp.array_equal(first["params"]["w"], again["params"]["w"])


def test_a_run_is_not_resumed_with_other_options(run):
    import checkpoints

    run()
    with pytest.raises(checkpoints.CheckpointError, match="the option `seed` is 1 now and was 0"):
        run("--seed", "1")


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(run, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ADAM", optax.sgd(float("inf")))
    with pytest.raises(FloatingPointError, match=r"step 2: \{'loss': nan\} is not finite"):
        run("--every", "1")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["1"]
