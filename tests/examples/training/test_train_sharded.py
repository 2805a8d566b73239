"""On a mesh the text program computes the same, in parts, with no more communication than jax.grad's."""

import re
import shutil
from collections import Counter

import jax
import numpy as np
import pytest


class Interruption(Exception):
    """Ends a run at a step."""


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


def parts_of(state, name: str) -> set[tuple[int, ...]]:
    """The shapes that lie on one device, of all arrays with a word in their path."""
    return {
        leaf.addressable_shards[0].data.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if name in jax.tree_util.keystr(path)
    }


def no_more_communication(text: str) -> bool:
    """Whether our step has no more collectives of any kind than that with jax.grad, and has some."""
    ours, others = counts(text, "funcgrad"), counts(text, "jax")
    return ours["all-reduce"] > 0 and all(ours[kind] <= others[kind] for kind in ours)


@pytest.mark.slow(landing=True)
def test_parts_that_exchange_no_more_than_with_jax_grad_and_have_the_same_losses(tmp_path, capsys):
    state = train(tmp_path / "ours", "2x2x2", "--collectives")
    assert no_more_communication(capsys.readouterr().out)
    for tree in (state.params, state.optimizer):
        assert parts_of(tree, "up") == {(2, 16 // 2, 64 // 2)}
        assert parts_of(tree, "down") == {(2, 64 // 2, 16 // 2)}
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(state))
    train(tmp_path / "others", "2x2x2", "--gradient", "jax")
    train(tmp_path / "alone", "1x1x1")
    for other in ("others", "alone"):
        assert np.max(np.abs(losses(tmp_path / "ours") / losses(tmp_path / other) - 1)) < 1e-6


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("mesh", ["8x1x1", "1x8x1", "4x1x2", "1x2x4", "1x4x2"])
def test_no_more_communication_than_with_jax_grad_on_other_meshes(tmp_path, capsys, mesh):
    train(tmp_path, mesh, "--collectives", "--steps", "1")
    assert no_more_communication(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.release
def test_a_run_goes_on_where_it_was_broken_off_on_the_same_mesh_or_another(tmp_path, monkeypatch):
    import train_sharded

    spread, broken = train_sharded.spread, []

    def break_off(tokens, mesh):
        broken.append(1)
        if len(broken) == 4:
            raise Interruption
        return spread(tokens, mesh)

    monkeypatch.setattr(train_sharded, "spread", break_off)
    checkpoint = ("--checkpoint", str(tmp_path / "kept"), "--every", "2")
    with pytest.raises(Interruption):
        train(tmp_path / "broken", "2x2x2", *checkpoint)
    shutil.copytree(tmp_path / "kept", tmp_path / "copy")
    whole = train(tmp_path / "whole", "2x2x2")
    same = train(tmp_path / "broken", "2x2x2", *checkpoint)
    jax.tree.map(np.testing.assert_array_equal, same, whole)
    assert np.array_equal(losses(tmp_path / "broken"), losses(tmp_path / "whole"))

    shutil.rmtree(tmp_path / "kept")
    (tmp_path / "copy").rename(tmp_path / "kept")
    monkeypatch.setattr(train_sharded, "spread", spread)
    other = train(tmp_path / "other", "1x8x1", *checkpoint)
    assert parts_of(other, "up") == {(2, 16 // 8, 64)}
    np.testing.assert_allclose(
        losses(tmp_path / "other"), losses(tmp_path / "whole")[2:], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("mesh", "message"),
    [("2x2", "give three numbers"), ("2x0x2", "give three numbers"), ("4x4x1", "needs 16 devices")],
)
def test_a_mesh_that_cannot_be_is_an_error(tmp_path, mesh, message):
    with pytest.raises(SystemExit, match=message):
        train(tmp_path, mesh)


def test_a_parameter_that_no_table_has_is_an_error():
    from text_sharding import mesh_of, shardings_of

    state = {"router": {"kernel": np.zeros((4, 4))}}
    with pytest.raises(KeyError, match=r"router\.kernel"):
        shardings_of(state, mesh_of("1x1x1"))
