"""What is restored is what was saved, and what cannot be restored is never used in silence."""

import gc
import resource
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytestmark = pytest.mark.filterwarnings(  # orbax leaves coroutines behind where a read fails
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def checkpoints():
    import checkpoints

    yield checkpoints
    gc.collect()  # so that what a failed read leaves behind is reported here, if at all


def state_of(seed, width=40):
    """Parameters, an optimiser's state, small dtypes, integers and both kinds of keys."""
    key = jax.random.key(seed)
    params = {"w": jax.random.normal(key, (width, 50)), "b": jnp.full(50, seed, jnp.bfloat16)}
    return {
        "params": params,
        "optimiser": optax.adam(0.1).init(params),
        "key": key,
        "old key": jax.random.PRNGKey(seed),
        "step": jnp.int32(seed),
        "empty": jnp.zeros((0, 3)),
        "flag": jnp.array([True, False]),
    }


def numbers(state):
    leaves = jax.tree.leaves(state)
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in leaves]


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(numbers(found), numbers(expected), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def saved(checkpoints, folder, *steps, **options):
    with checkpoints.Checkpoints(folder, 1, **options) as written:
        for step in steps:
            written.save(step, state_of(step))


def restored(checkpoints, folder, **options):
    with checkpoints.Checkpoints(folder, 1, **options) as written:
        return written.restore_or(state_of(0))


def test_the_newest_state_is_restored_bit_by_bit(checkpoints, tmp_path):
    saved(checkpoints, tmp_path, 2, 4, 6)
    found, step = restored(checkpoints, tmp_path)
    assert step == 6
    assert_same(found, state_of(6))


def test_without_a_checkpoint_the_state_is_the_given_one(checkpoints, tmp_path):
    found, step = restored(checkpoints, tmp_path / "new" / "folder")
    assert step == 0
    assert_same(found, state_of(0))


def test_old_checkpoints_are_removed_and_the_newest_kept(checkpoints, tmp_path):
    saved(checkpoints, tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def test_a_state_may_be_donated_while_it_is_written(checkpoints, tmp_path):
    state = {"w": jax.random.normal(jax.random.key(0), (500, 1000))}
    expected = np.array(state["w"])
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 + 7, state), donate_argnums=0)
    with checkpoints.Checkpoints(tmp_path, 1) as written:
        written.save(1, state)
        for _ in range(3):
            state = overwrite(state)
        found, _ = written.restore_or(state)
    np.testing.assert_array_equal(found["w"], expected)


def damaged_files(folder):
    """The files that hold the numbers, the record and the structure of a checkpoint."""
    return {
        "numbers": max((folder / "state").rglob("*"), key=lambda path: path.stat().st_size),
        "record": folder / "record" / "metadata",
        "index": folder / "state" / "manifest.ocdbt",
    }


DAMAGES = {
    "a flipped bit": lambda data: bytes(x ^ 4 * (i == len(data) // 2) for i, x in enumerate(data)),
    "cut short": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["numbers", "record", "index"])
def test_a_damaged_checkpoint_is_skipped_with_a_message(
    checkpoints, tmp_path, capsys, file, damage
):
    saved(checkpoints, tmp_path, 1, 2)
    path = damaged_files(tmp_path / "2")[file]
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    found, step = restored(checkpoints, tmp_path)
    assert step == 1
    assert_same(found, state_of(1))
    message = capsys.readouterr().err
    assert "skipped the checkpoint of step 2 (" in message
    assert "renamed it unreadable_2; step 1 is used" in message
    saved(checkpoints, tmp_path, 2)  # the step is taken, and saved, again
    assert_same(restored(checkpoints, tmp_path)[0], state_of(2))


@pytest.mark.parametrize("lost", ["state", "record", "state/d", "state/ocdbt.process_0"])
def test_a_half_removed_checkpoint_is_skipped_with_a_message(checkpoints, tmp_path, capsys, lost):
    saved(checkpoints, tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "2" / lost)
    assert restored(checkpoints, tmp_path)[1] == 1
    assert "skipped the checkpoint of step 2 (" in capsys.readouterr().err


def test_a_save_that_was_cut_short_is_reported_and_removed(checkpoints, tmp_path, capsys):
    saved(checkpoints, tmp_path, 1)
    (tmp_path / "1").rename(tmp_path / "2.orbax-checkpoint-tmp")
    saved(checkpoints, tmp_path, 1)
    assert "the checkpoint of step 2 was not completed, and is removed" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]


def test_where_no_checkpoint_can_be_read_nothing_is_started_anew(checkpoints, tmp_path):
    saved(checkpoints, tmp_path, 1, 2)
    for step in ("1", "2"):
        damaged_files(tmp_path / step)["record"].write_bytes(b"")
    with pytest.raises(
        checkpoints.CheckpointError, match="To start anew, name another folder"
    ) as e:
        restored(checkpoints, tmp_path)
    assert "- step 2: " in str(e.value)
    assert "- step 1: " in str(e.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            lambda s: {**s, "params": {**s["params"], "w": jnp.ones((40, 51))}},
            r"the array `params.w` is float32\[40, 51\] now and was float32\[40, 50\]",
        ),
        (
            lambda s: {**s, "params": {**s["params"], "b": jnp.ones(50)}},
            r"the array `params.b` is float32\[50\] now and was bfloat16\[50\]",
        ),
        (
            lambda s: {**s, "more": jnp.ones(1)},
            r"the array `more` is float32\[1\] now and was absent",
        ),
        (
            lambda s: {x: s[x] for x in s if x != "step"},
            r"the array `step` is absent now and was int32\[\]",
        ),
        (
            lambda s: {**s, "key": jax.random.key(0, impl="rbg")},
            r"the array `key` is key<rbg>\[\] now and was key<fry>\[\]",
        ),
    ],
    ids=["shape", "dtype", "added", "removed", "key"],
)
def test_another_state_is_an_error_that_names_the_array(checkpoints, tmp_path, changed, message):
    saved(checkpoints, tmp_path, 1)
    with (
        checkpoints.Checkpoints(tmp_path, 1) as written,
        pytest.raises(checkpoints.CheckpointError, match=message),
    ):
        written.restore_or(changed(state_of(0)))
    assert_same(restored(checkpoints, tmp_path)[0], state_of(1))  # the error has touched nothing


def test_another_option_is_an_error_that_names_it(checkpoints, tmp_path):
    saved(checkpoints, tmp_path, 1, settings={"seed": 0, "batch": 8})
    with pytest.raises(
        checkpoints.CheckpointError, match="the option `seed` is 1 now and was 0"
    ) as error:
        restored(checkpoints, tmp_path, settings={"seed": 1, "batch": 8})
    assert "batch" not in str(error.value)


@pytest.fixture
def full_disk():
    """A disk on which no file can grow beyond 20,000 bytes, as long as the context lasts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def set_limit(full):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]) if full else before)

    yield set_limit
    set_limit(False)
    signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_loses_nothing_and_training_goes_on(checkpoints, tmp_path, capsys, full_disk):
    with checkpoints.Checkpoints(tmp_path, 1, keep=2) as written:
        written.save(1, state_of(1))
        written.save(2, state_of(2))
        written._wait()
        full_disk(True)
        written.save(3, state_of(3, width=400))
        written.save(4, state_of(4, width=400))
        written._wait()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
        full_disk(False)
        assert_same(written.restore_or(state_of(0))[0], state_of(2))
        written.save(5, state_of(5))
        written._wait()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5"]
    message = capsys.readouterr().err
    assert "step 3 could not be saved (" in message
    assert "step 4 could not be saved (" in message
    assert "the checkpoint of step 2 stays" in message
    found, step = restored(checkpoints, tmp_path)
    assert step == 5
    assert_same(found, state_of(5))


def test_a_run_whose_last_save_failed_ends_with_an_error(checkpoints, tmp_path, full_disk):
    written = checkpoints.Checkpoints(tmp_path, 1)
    written.save(1, state_of(1))
    written._wait()
    full_disk(True)
    written.save(2, state_of(2, width=400))
    with pytest.raises(checkpoints.CheckpointError, match="step 2 could not be saved"):
        written.close()
    full_disk(False)
    assert restored(checkpoints, tmp_path)[1] == 1


def test_a_first_save_that_fails_ends_the_run(checkpoints, tmp_path, full_disk):
    full_disk(True)
    with (
        pytest.raises(checkpoints.CheckpointError, match=r"step 1 could .* no other checkpoint"),
        checkpoints.Checkpoints(tmp_path, 1) as written,
    ):
        written.save(1, state_of(1, width=400))
    full_disk(False)


def test_orbax_alone_reads_a_flipped_bit_as_if_nothing_was_wrong(checkpoints, tmp_path):
    """Why each array has a fingerprint. Where this fails, orbax has learnt to check what it reads."""
    import orbax.checkpoint as ocp

    state = {"w": jax.random.normal(jax.random.key(0), (40, 50))}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", state)
        checkpointer.wait_until_finished()
        files = [path for path in Path(tmp_path / "saved").rglob("*") if path.is_file()]
        largest = max(files, key=lambda path: path.stat().st_size)
        largest.write_bytes(DAMAGES["a flipped bit"](largest.read_bytes()))
        found = checkpointer.restore(tmp_path / "saved", state)
    assert not np.array_equal(found["w"], state["w"])
