"""The text program trains, as with jax.grad, resumes, and writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("equinox", reason="equinox is not installed: pip install 'funcgrad[training]'")


class Interruption(Exception):
    """Ends a run at a step."""


def losses(folder) -> np.ndarray:
    import metrics

    return np.array([line["loss"] for line in metrics.read(folder / "metrics.jsonl")])


def train(out, *options: str):
    """The final state of a small run, and its losses."""
    import train_text

    state = train_text.main(["--small", "--write", "20", "--out", str(out), *options])
    return state, losses(out)


def relative_difference(ours: np.ndarray, other: np.ndarray) -> float:
    assert len(ours) == len(other)
    return float(np.max(np.abs(ours / other - 1)))


@pytest.mark.slow(landing=True)
@pytest.mark.parametrize("model", ["nnx", "equinox"])
def test_the_loss_curve_is_that_of_jax_grad(tmp_path, capsys, model):
    options = ["--steps", "40", "--batch", "8", "--model", model]
    _, ours = train(tmp_path / "ours", *options)
    text = capsys.readouterr().out
    _, others = train(tmp_path / "others", *options, "--gradient", "jax")
    assert relative_difference(ours, others) < 1e-5
    assert ours[-5:].mean() < 0.85 * ours[0]
    held_out, written = text.split("\n", 1)
    assert 0 < float(held_out.split()[0]) < 1.2 * ours[-1] / np.log(2)
    assert written.startswith("The ")
    assert len(written) == len("The ") + 20 + len("\n")
    assert (tmp_path / "ours" / "metrics.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.release
def test_a_budget_and_bfloat16_leave_the_loss_curve_of_jax_grad(tmp_path):
    options = ["--steps", "10", "--batch", "8", "--dtype", "bfloat16", "--budget", "0.9"]
    _, ours = train(tmp_path / "ours", *options)
    _, others = train(tmp_path / "others", *options, "--gradient", "jax")
    assert relative_difference(ours, others) < 2e-3  # bfloat16 has eight bits


@pytest.mark.slow
def test_a_budget_that_is_too_small_says_what_is_possible(tmp_path):
    from funcgrad import errors

    with pytest.raises(errors.BudgetError, match="The smallest possible budget"):
        train(tmp_path, "--steps", "1", "--batch", "2", "--budget", "0.01")


@pytest.mark.slow
@pytest.mark.release
def test_a_run_that_is_broken_off_and_resumed_is_one_that_is_not(tmp_path, monkeypatch):
    import text_setup

    windows, drawn = text_setup.windows, []

    def break_off(tokens, key, batch, length):
        drawn.append(key)
        if len(drawn) == 6:
            raise Interruption
        return windows(tokens, key, batch, length)

    options = ["--steps", "8", "--batch", "4", "--every", "2"]
    whole, expected = train(tmp_path / "whole", *options)
    options += ["--checkpoint", str(tmp_path / "kept")]
    monkeypatch.setattr(text_setup, "windows", break_off)
    with pytest.raises(Interruption):
        train(tmp_path / "broken", *options)
    resumed, found = train(tmp_path / "broken", *options)
    assert [step for _, step in drawn[6:]] == [4, 5, 6, 7]
    assert np.array_equal(found, expected)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_what_is_written_follows_from_what_was_read():
    from text_size import Model
    from train_text import continued

    def logits(params, tokens):
        """The sum of the last two tokens is certain."""
        before = jnp.roll(tokens, 1, axis=1).at[:, 0].set(0)
        return 1e4 * jax.nn.one_hot((tokens + before) % 10, 10)

    model = Model(4, lambda key: None, logits)
    for prompt, count in ([1, 1], 8), ([1, 1, 2, 3, 5, 8], 4), ([3, 4], 1):
        text = continued(model, None, jnp.array(prompt), count, jax.random.key(0))
        expected = list(prompt)
        for _ in range(count):
            expected.append((expected[-1] + expected[-2]) % 10)
        assert text.tolist() == expected


@pytest.mark.parametrize("library", ["nnx", pytest.param("equinox", marks=pytest.mark.slow)])
def test_a_model_reads_what_came_before_and_nothing_that_comes_after(library):
    import importlib

    from text_size import Size

    size = Size(vocabulary=11, length=6, layers=2, width=8, heads=2)
    model = importlib.import_module(f"text_{library}").build(size)
    params = model.init(jax.random.key(0))
    tokens = jnp.array([[1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 5, 6]])
    first, second = jax.jit(model.logits)(params, tokens)
    assert first.shape == (6, 11)
    np.testing.assert_array_equal(first[:3], second[:3])
    assert np.all(np.any(first[3:] != second[3:], axis=1))
