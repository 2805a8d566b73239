"""The digits example trains, checks its gradient and fails where the gradient is wrong."""

import functools
import re
import sys
from pathlib import Path

import jax
import pytest

import funcgrad

for library in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(
        library, reason=f"{library} is not installed: pip install 'funcgrad[examples]'"
    )
EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = [path.stem for path in EXAMPLES.glob("*digits*.py")]


@pytest.fixture
def example(monkeypatch, tmp_path):
    """The script as a module, run in an empty folder."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    import train_digits

    yield train_digits
    for name in NAMES:
        sys.modules.pop(name, None)


def accuracies(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"test accuracy ([\d.]+)", text)]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_defaults_reach_97_percent_with_a_right_gradient(example, capsys, tmp_path, model):
    example.main(["--model", model])
    text = capsys.readouterr().out
    assert len(accuracies(text)) == 40
    assert accuracies(text)[-1] >= 0.97
    difference = re.search(r"largest relative difference to jax.grad: (\S+)", text)
    assert difference is not None
    assert float(difference[1]) <= example.GRADIENT_BOUND
    assert (tmp_path / "digits_loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "options",
    [
        ["--batch-size", "32"],
        ["--batch-size", "5000"],
        ["--learning-rate", "0.001"],
        ["--seed", "1"],
    ],
)
def test_each_option_changes_the_run(example, capsys, options):
    example.main(["--epochs", "2"])
    default = accuracies(capsys.readouterr().out)
    example.main(["--epochs", "2", *options])
    changed = accuracies(capsys.readouterr().out)
    assert len(default) == len(changed) == 2
    assert default != changed


def test_the_seed_fixes_the_run(example, capsys):
    example.main(["--epochs", "2"])
    first = capsys.readouterr().out
    example.main(["--epochs", "2"])
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--model", "rnn"], "invalid choice: 'rnn'"), (["--epochs", "0"], "0 is less than 1")],
)
def test_bad_options_are_refused(example, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        example.main(options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_a_wrong_rule_stops_the_script(example, monkeypatch, factor):
    rules = funcgrad.DEFAULT.override(
        {jax.lax.logistic_p: lambda ct, x, *, out, **_: factor * ct * out * (1 - out)}
    )
    wrong = functools.partial(funcgrad.value_and_grad, rules=rules)
    monkeypatch.setattr(funcgrad, "value_and_grad", wrong)
    with pytest.raises(SystemExit, match=r"the gradient differs from jax.grad's by"):
        example.main(["--epochs", "1"])


def test_the_relative_difference_sees_rounding_and_one_wrong_leaf(example):
    reference = {"bias": jax.numpy.zeros(2), "weight": jax.numpy.array([1.0, 4.0])}
    assert example.relative_difference(reference, reference) == 0
    last_bit = {**reference, "weight": reference["weight"] + jax.numpy.array([1.2e-7, 0.0])}
    assert 0 < example.relative_difference(last_bit, reference) < 1e-7
    assert example.relative_difference({**reference, "bias": reference["bias"] + 1}, reference) > 1
