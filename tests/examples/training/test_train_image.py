"""The image program learns, has the loss curve of jax.grad, and survives kills."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.examples.training import killing


@pytest.fixture
def program(tmp_path, monkeypatch):
    """The program, run in an empty folder, and the metrics that it wrote."""
    monkeypatch.chdir(tmp_path)
    import train_image

    def run(*arguments):
        state = train_image.main(["--small", "--batch", "8", "--steps", "3", *arguments])
        lines = (tmp_path / "training_out" / "metrics.jsonl").read_text().splitlines()
        return state, [json.loads(line) for line in lines]

    return run


def curve(metrics, name):
    return np.array([line[name] for line in metrics])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "precision", "rtol"),
    [
        ("resnet", "float32", 1e-5),
        ("resnet", "bfloat16", 2e-2),
        ("googlenet", "bfloat16", 2e-2),
        ("googlenet", "float32", 1e-5),
    ],
)
def test_its_curves_are_those_of_jax_grad(program, model, precision, rtol, capsys):
    arguments = ("--model", model, "--precision", precision, "--steps", "40", "--batch", "32")
    _, ours = program(*arguments)
    _, theirs = program(*arguments, "--gradient", "jax")
    np.testing.assert_allclose(curve(ours, "loss"), curve(theirs, "loss"), rtol=rtol)
    assert curve(ours, "loss")[-5:].mean() < 0.95 * curve(ours, "loss")[:5].mean()
    assert curve(ours, "learning_rate").argmax() == 4
    assert "test accuracy of the averaged parameters: 0." in capsys.readouterr().out


def trained_by(*arguments):
    import train_image

    return train_image.Program(train_image.options_of(["--small", "--batch", "8", *arguments]))


@pytest.mark.slow
@pytest.mark.usefixtures("program")
def test_parameters_are_float32_and_products_bfloat16():
    import image_data

    trained = trained_by()
    state = trained.start()
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    batch = image_data.batches(trained.size, 8, 0)[0]
    assert jax.eval_shape(trained.step, state, batch)[0] == jax.eval_shape(lambda: state)
    text = jax.jit(trained.step).lower(state, batch).as_text()
    products = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert products
    assert all("bf16" in line and "xf32" not in line for line in products)


@pytest.mark.slow
@pytest.mark.usefixtures("program")
def test_a_batch_in_parts_has_the_gradient_of_its_parts():
    """Each part has its own batch norm, and starts from the statistics of the part before."""
    import image_data

    trained = trained_by("--accumulate", "2", "--precision", "float32")
    state, batch = trained.start(), image_data.batches(trained.size, 8, 0)[0]
    new_state, metrics = jax.jit(trained.step)(state, batch)
    of_part = jax.jit(jax.value_and_grad(trained.loss, has_aux=True))
    _, *keys = jax.random.split(state["key"], 3)
    statistics, gradients = state["batch_stats"], []
    for start, key in zip((0, 4), keys, strict=True):
        part = {name: x[start : start + 4] for name, x in batch.items()}
        (_, (statistics, _)), gradient = of_part(state["params"], statistics, part, key)
        gradients.append(gradient)
    mean = jax.tree.map(lambda x, y: (x + y) / 2, *gradients)
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(mean)))
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
    for x, y in zip(*map(jax.tree.leaves, (new_state["batch_stats"], statistics)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("program")
def test_a_batch_depends_on_its_number_and_the_seed_alone():
    import image_data

    first = image_data.batches(8, 4, seed=0)
    later = image_data.batches(8, 4, seed=0)
    _ = [later[number] for number in (5, 900)]
    for number in (7, 1000):
        for name, x in first[number].items():
            np.testing.assert_array_equal(x, later[number][name])
    assert not np.array_equal(first[7]["image"], image_data.batches(8, 4, seed=1)[7]["image"])


@pytest.mark.usefixtures("program")
def test_an_epoch_has_each_image_once_and_each_epoch_another_order():
    import image_data

    labels = image_data.digits(8)[0]["label"]
    assert len(labels) == 3 * 479
    batches = image_data.batches(8, 3, seed=0)
    first, second = (
        np.concatenate([batches[start + number]["label"] for number in range(479)])
        for start in (0, 479)
    )
    for epoch in (first, second):
        assert np.bincount(epoch).tolist() == np.bincount(labels).tolist()
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "9", "--accumulate", "2"], "--batch 9 is no multiple of 2 parts"),
        (["--steps", "0"], "0 is less than 1"),
        (["--model", "vgg"], "invalid choice: 'vgg'"),
    ],
)
def test_bad_options_are_refused(program, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        program(*arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


SMALL = ("--small", "--batch", "4", "--precision", "float32")


@pytest.mark.slow
def test_it_survives_a_kill(tmp_path):
    killing.check_that_kills_change_nothing(
        tmp_path, "train_image.py", SMALL, steps=16, every=4, kills=1
    )


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("model", ["resnet", "googlenet"])
def test_it_survives_ten_kills(tmp_path, model):
    killing.check_that_kills_change_nothing(
        tmp_path, "train_image.py", (*SMALL, "--model", model), steps=60, every=4, kills=10
    )
