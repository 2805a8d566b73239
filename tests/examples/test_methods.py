"""The examples of attribution methods find what they say that they find, and draw it."""

import importlib
import re
import sys
from pathlib import Path

import pytest

for library in ("sklearn", "matplotlib", "flax"):
    pytest.importorskip(
        library, reason=f"{library} is not installed: pip install 'funcgrad[examples]'"
    )
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """A function that runs an example in an empty folder and returns what it printed."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")

    def of_name(name: str) -> str:
        importlib.import_module(name).main()
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        return capsys.readouterr().out

    yield of_name
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


def percentages(text: str) -> list[float]:
    return [float(found) / 100 for found in re.findall(r"(-?\d+)%", text)]


def test_grad_cam_finds_the_digits(run):
    found = re.search(r"(\d) of 8 digits found", run("grad_cam"))
    assert found is not None
    assert int(found[1]) >= 7


def test_guided_backpropagation_is_on_the_ink(run):
    gradient, deconvnet, guided = percentages(run("guided_backprop"))
    assert guided > max(gradient, deconvnet)


def test_relevances_sum_to_about_the_logit(run):
    text = run("lrp")
    rows = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in text.splitlines()
            if re.match(r"(logit|epsilon|gamma|z-plus|composite) ", line)}  # fmt: skip
    logits = rows.pop("logit")
    assert len(rows) == 4
    for relevances in rows.values():  # the rest went to the biases
        assert sum(relevances) == pytest.approx(sum(logits), rel=0.4)


def test_one_head_carries_the_answer(run):
    most, others, estimated = percentages(run("activation_patching"))
    assert most > 0.9
    assert abs(others) < 0.1
    assert estimated == pytest.approx(most, abs=0.1)
