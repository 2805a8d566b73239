"""On a mesh the text program computes the same, in parts, with no more communication than jax.grad's."""

import re
from collections import Counter

import jax
import numpy as np
import pytest


def losses(folder) -> np.ndarray:
    import metrics

    return np.array([line["loss"] for line in metrics.read(folder / "metrics.jsonl")])


def train(out, mesh: str, *options: str):
    import train_sharded

    argv = ["--small", "--steps", "6", "--batch", "8", "--virtual", "0", "--out", str(out)]
    return train_sharded.main([*argv, "--mesh", mesh, *options])


def counts(text: str, gradient: str) -> Counter[str]:
    (line,) = re.findall(rf"^{gradient}: (.*)$", text, re.MULTILINE)
    return Counter({kind: int(count) for count, kind in (x.split() for x in line.split(", "))})


@pytest.mark.slow(landing=True)
@pytest.mark.parametrize("mesh", ["2x2x2", "1x8x1", "4x1x2"])
def test_no_more_communication_than_jax_grad_and_the_same_losses(tmp_path, capsys, mesh):
    state = train(tmp_path / "ours", mesh, "--collectives")
    text = capsys.readouterr().out
    ours, others = counts(text, "funcgrad"), counts(text, "jax")
    assert "all-reduce" in ours
    assert all(ours[kind] <= others[kind] for kind in ours)
    data, fsdp, tensor = map(int, mesh.split("x"))
    for leaf in (state.params, state.optimizer):
        up = next(
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(leaf)
            if "up" in jax.tree_util.keystr(path)
        )
        assert len(up.sharding.device_set) == data * fsdp * tensor
        assert up.addressable_shards[0].data.shape == (2, 16 // fsdp, 64 // tensor)
    train(tmp_path / "others", mesh, "--gradient", "jax")
    train(tmp_path / "alone", "1x1x1")
    for other in ("others", "alone"):
        assert np.max(np.abs(losses(tmp_path / "ours") / losses(tmp_path / other) - 1)) < 1e-6
