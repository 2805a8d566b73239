"""``python -m funcgrad.inspect`` on a small model in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import funcgrad
from funcgrad.inspect.command_line import COMMANDS, main

MODEL = """\
import jax
import jax.numpy as jnp
import funcgrad
from jax.extend.core import Primitive


def loss(w, x):
    with jax.named_scope("layer"):
        h = jnp.tanh(w @ x)
    return jnp.sum(h**2)


example = jnp.ones((4, 3)), jnp.ones(3)
types = jax.ShapeDtypeStruct((4, 3), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.float32)


def distance(x):
    return jnp.sqrt(jnp.sum(x**2))


def origin():
    return (jnp.zeros(3),)


def fails():
    raise ValueError("no data")


def wrong(w, x):
    return w @ x.T @ "layer"


class Model:
    @staticmethod
    def loss(w, x):
        return loss(w, x)


unknown_p = Primitive("unknown")
unknown_p.def_abstract_eval(lambda x: x)


def without_rule(w, x):
    return jnp.sum(unknown_p.bind(w) @ x)


def with_loop(w, x):
    return jnp.sum(w) * jax.lax.while_loop(lambda c: jnp.sum(c) < 99, lambda c: c * 2, x)[0]


def data_rules():
    return funcgrad.kinks("zero")


rules = data_rules()
not_a_tuple = [1, 2]
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model's file; its folder is where Python looks for modules."""
    path = tmp_path / "small_model.py"
    path.write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "small_model", raising=False)
    return path


def shell(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it, in the model's folder."""
    package = str(Path(funcgrad.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package, "JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg"}
    command = [sys.executable, "-m", "funcgrad.inspect", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


SHOWN = {
    "cost": ("cost small_model:loss --args example --no-xla", "dot_general", 0),
    "coverage": ("coverage small_model.py:loss --args types", "tanh_vjp", 0),
    "flow": ("flow small_model:loss --args example", "100% of the results are saturated", 1),
    "graph": ("graph small_model:loss --args example", "4 operations", 0),
    "residuals": (
        "residuals small_model:loss --args example --no-xla --no-suggestions",
        "dot_general",
        0,
    ),
    "nonfinite": ("nonfinite small_model:distance --args origin", "way back through `sqrt`", 1),
    "places": ("places small_model.py:Model.loss --args small_model:example", "layer", 0),
}
"""Of each sub-command: the words, what is printed, the exit code."""


@pytest.mark.parametrize("name", COMMANDS)
def test_sub_command_in_a_shell(name: str, model: Path) -> None:
    words, printed, code = SHOWN[name]
    done = shell(model.parent, *words.split())
    assert (done.returncode, done.stderr) == (code, "")
    assert printed in done.stdout


def test_help_has_every_sub_command_and_its_examples_run(model: Path) -> None:
    text = shell(model.parent, "--help").stdout
    assert all(name in text for name in COMMANDS)
    examples = [
        line.split("funcgrad.inspect ")[1] for line in text.splitlines() if "  python -m" in line
    ]
    assert len(examples) >= 3
    known = "small_model"
    for example in examples:
        for there, here in (
            ("package.model", known),
            ("package.data:batch", "origin"),
            ("model.py", known),
        ):
            example = example.replace(there, here)
        example = example.replace("my_rules", "rules").replace(
            "nonfinite small_model:loss", "nonfinite small_model:distance"
        )
        assert run(example, model)[0] in (0, 1)


def run(words: str, model: Path, capture: Any = None) -> tuple[int, str, str]:
    """The command in this process: the exit code, what is printed, and the error."""
    here = Path.cwd()
    os.chdir(model.parent)
    try:
        code = main(words.split())
    finally:
        os.chdir(here)
    out, err = capture.readouterr() if capture else ("", "")
    return code, out, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cost small_model", "Write it as module:function"),
        ("cost small_mdel:loss", "There is no module 'small_mdel'"),
        ("cost nowhere.py:loss", "There is no file"),
        ("cost small_model:los", "Did you mean loss?"),
        ("cost small_model:example", "small_model:example is a tuple, not a function"),
        ("cost small_model:loss", "loss takes (w, x), but no --args was given"),
        (
            "cost small_model:loss --args origin",
            "--args origin gives 1: missing a required argument: 'x'",
        ),
        ("cost small_model:loss --args not_a_tuple", "gives a list. Give a tuple"),
        ("cost small_model:loss --args fails", "ValueError: no data"),
        ("cost small_model:wrong --args example", "small_model:wrong raised:"),
        ("cost small_model:loss --args example --rules example", "gives a tuple, not rules"),
        ("cost small_model:loss --args example --output cost.png", "it can end with .json, .txt"),
        ("cost small_model:loss --args example --output no/cost.txt", "there is no folder no"),
        ("cost small_model:loss --args example --steps -1", "steps=-1"),
        ("cost small_model:without_rule --args example", "unknown"),
    ],
)
def test_errors_say_what_is_wrong(words: str, said: str, model: Path, capsys: Any) -> None:
    code, out, err = run(words, model, capsys)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("python -m funcgrad.inspect: ")


def test_a_module_that_does_not_import_says_why(model: Path, capsys: Any) -> None:
    (model.parent / "broken.py").write_text("import nothing_like_it\n")
    for name in ("broken:f", "broken.py:f"):
        code, _, err = run(f"cost {name}", model, capsys)
        assert code == 2
        assert "could not be imported" in err
        assert "nothing_like_it" in err


def test_the_exit_code_tells_what_was_found(model: Path, capsys: Any) -> None:
    assert run("nonfinite small_model:distance --args origin", model)[0] == 1
    assert run("nonfinite small_model:distance --args origin --rules rules", model)[0] == 0
    assert run("nonfinite small_model:distance --args origin --rules data_rules", model)[0] == 0
    assert run("coverage small_model:without_rule --args example", model)[0] == 1


def test_output_as_json(model: Path) -> None:
    output = model.parent / "cost.json"
    words = f"cost small_model:with_loop --args example --steps 6 --no-xla --output {output}"
    assert run(words, model)[0] == 0
    found = json.loads(output.read_text())
    (doubling,) = [row for row in found["by_op"] if row["name"] == "mul"]
    assert doubling["function"]["flops"] == 6 * 3 + 1


@pytest.mark.parametrize(
    ("words", "suffix", "begins"),
    [
        ("graph --no-values", ".html", b"<!doctype html>"),
        ("graph", ".svg", b"<svg"),
        ("graph", ".json", b"{"),
        ("graph", ".dot", b"digraph"),
        ("flow", ".csv", b"layer,"),
        ("flow", ".png", b"\x89PNG"),
        ("residuals --no-xla --no-suggestions", ".csv", b"status,"),
        ("residuals --no-xla --no-suggestions", ".png", b"\x89PNG"),
    ],
    ids=[
        *("page of a graph", "drawing of a graph", "data of a graph", "dot of a graph"),
        *("table of a flow", "picture of a flow", "table of residuals", "picture of residuals"),
    ],
)
def test_output_as_pages_pictures_and_data(
    words: str, suffix: str, begins: bytes, model: Path
) -> None:
    output = model.parent / f"found{suffix}"
    command, *options = words.split()
    words = f"{command} small_model:loss --args example --output {output} {' '.join(options)}"
    assert run(words, model)[0] in (0, 1)
    assert output.read_bytes().lower().startswith(begins.lower())


def test_output_as_text(model: Path) -> None:
    output = model.parent / "places.txt"
    assert run(f"places small_model:loss --args example --no-ops --output {output}", model)[0] == 0
    assert output.read_text() == "layer\n"


def test_options_that_argparse_refuses(model: Path) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["cost", "small_model:loss", "--what"])
    assert refused.value.code == 2
