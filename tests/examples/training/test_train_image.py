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


def test_its_curves_are_those_of_jax_grad(program, capsys):
    _, ours = program("--precision", "float32", "--model", "resnet")
    _, theirs = program("--precision", "float32", "--model", "resnet", "--gradient", "jax")
    for name in ("loss", "gradient_norm", "learning_rate", "accuracy"):
        np.testing.assert_allclose(curve(ours, name), curve(theirs, name), rtol=1e-5)
    assert "test accuracy of the averaged parameters: 0." in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet", "googlenet"])
@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_its_curves_stay_those_of_jax_grad(program, model, precision, rtol):
    arguments = ("--model", model, "--precision", precision, "--steps", "40", "--batch", "32")
    _, ours = program(*arguments)
    _, theirs = program(*arguments, "--gradient", "jax")
    np.testing.assert_allclose(curve(ours, "loss"), curve(theirs, "loss"), rtol=rtol)
    assert curve(ours, "loss")[-5:].mean() < 0.95 * curve(ours, "loss")[:5].mean()


@pytest.mark.slow
def test_parameters_are_float32_and_products_bfloat16(program):
    import train_image

    state, _ = program()
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype("float32")}
    options = train_image.options_of(["--small", "--batch", "8"])
    trained = train_image.Program(options)
    batch = train_image.batches(trained.size, 8, 0)[0]
    text = jax.jit(trained.step).lower(trained.start(), batch).as_text()
    products = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert products
    assert all("bf16" in line and "xf32" not in line for line in products)


@pytest.mark.slow
def test_a_batch_in_parts_has_the_gradient_of_its_parts(program):
    """Each part has its own batch norm, and starts from the statistics of the part before."""
    import train_image

    options = train_image.options_of(["--small", "--batch", "8", "--accumulate", "2"])
    trained = train_image.Program(options)
    state, batch = trained.start(), train_image.batches(trained.size, 8, 0)[0]
    _, metrics = jax.jit(trained.step)(state, batch)
    _, *keys = jax.random.split(state["key"], 3)
    statistics, total = state["batch_stats"], 0.0
    for start, key in zip((0, 4), keys, strict=True):
        part = jax.tree.map(lambda x, start=start: x[start : start + 4], batch)
        (_, (statistics, _)), gradient = jax.value_and_grad(trained.loss, has_aux=True)(
            state["params"], statistics, part, key
        )
        total = jax.tree.map(jnp.add, gradient, total) if start else gradient
    norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(total))) / 2
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=2e-2)


def test_a_batch_depends_on_its_number_and_the_seed_alone(program):
    import image_data

    first = image_data.batches(8, 4, seed=0)
    later = image_data.batches(8, 4, seed=0)
    _ = [later[number] for number in (5, 900)]
    for number in (7, 1000):
        for name, x in first[number].items():
            np.testing.assert_array_equal(x, later[number][name])
    assert not np.array_equal(first[7]["image"], image_data.batches(8, 4, seed=1)[7]["image"])
    epoch = [label for number in range(359) for label in first[number]["label"]]
    assert np.bincount(epoch).tolist() == np.bincount(image_data.digits(8)[0]["label"][:]).tolist()


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
