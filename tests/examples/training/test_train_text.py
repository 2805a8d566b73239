"""The text program trains, as with jax.grad, resumes, and writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("equinox", reason="equinox is not installed: pip install 'funcgrad[training]'")


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
