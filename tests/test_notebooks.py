"""Every notebook is valid, saved with its outputs, and shows the same when it is run again."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MISSING = "the notebooks need Jupyter: pip install 'funcgrad[notebooks]'"
nbformat = pytest.importorskip("nbformat", reason=MISSING)
pytest.importorskip("nbclient", reason=MISSING)
for package in ("ipykernel", "ipywidgets", "matplotlib", "sympy"):
    pytest.importorskip(package, reason=MISSING)

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 1_500_000
PLACES = re.compile(r"/home/|/root/|/tmp/|/Users/|ipykernel_|site-packages")
TAGS = re.compile(r"section:([1-9]|[1-3]\d|4[0-7])|varies|solution|hide-cell|raises-exception")


@pytest.fixture(scope="module")
def run() -> Any:
    """The module ``notebooks/run.py``, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("notebooks_run", ROOT / "notebooks" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags_of(cell: Any) -> list[str]:
    return cell.metadata.get("tags", [])


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_valid_and_saved_by_the_tool(path, run):
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST
    assert notebook == run.cleaned(notebook), f"python notebooks/run.py --save {path.stem}"
    assert PLACES.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_section_shows_something_and_solutions_are_folded(path):
    for cell in code_cells(read(path)):
        tags = tags_of(cell)
        assert not [tag for tag in tags if not TAGS.fullmatch(tag)]
        if any(tag.startswith("section:") for tag in tags):
            assert cell.outputs, cell.source
        if "solution" in tags:
            assert "hide-cell" in tags
            assert cell.metadata.jupyter == {"source_hidden": True, "outputs_hidden": True}
            assert "assert" in cell.source


@pytest.mark.slow(landing=True)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_shows_the_same_when_it_is_run_again(path):
    command = (sys.executable, path.parent / "run.py", path.stem)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# --- the tool


@pytest.mark.parametrize(
    ("saved", "new", "same"),
    [
        ("loss = 4.0", "loss  =  4.0", True),
        ("loss = 4.0", "loss = 4.00001", True),
        ("loss = 4.0", "loss = 4.001", False),
        ("loss = 4.0", "cost = 4.0", False),
        ("100000 steps", "100001 steps", False),
        ("-1e-05", "-1.00001e-5", True),
        ("1 2", "1", False),
        ("1.5", "-1.5", False),
    ],
)
def test_texts_are_compared(saved, new, same, run):
    assert run.same_text(saved, new) is same


def cell_that_printed(text: str, *tags: str) -> Any:
    output = nbformat.v4.new_output("stream", name="stdout", text=text)
    return nbformat.v4.new_code_cell("run()", outputs=[output], metadata={"tags": list(tags)})


def cell_that_drew(kind: str, content: str) -> Any:
    output = nbformat.v4.new_output("display_data", data={kind: content, "text/plain": "<Figure>"})
    return nbformat.v4.new_code_cell("draw()", outputs=[output])


def cell_that_warned() -> Any:
    output = nbformat.v4.new_output("stream", name="stderr", text="a warning")
    return nbformat.v4.new_code_cell("run()", outputs=[output])


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        (cell_that_printed("1.0"), cell_that_printed("1.0"), False),
        (cell_that_printed("1.0"), cell_that_printed("2.0"), True),
        (cell_that_printed("1.0", "varies"), cell_that_printed("2.0", "varies"), False),
        (cell_that_printed("1.0", "varies"), nbformat.v4.new_code_cell("run()"), True),
        (cell_that_drew("image/svg+xml", "a"), cell_that_drew("image/svg+xml", "b"), False),
        (cell_that_drew("image/svg+xml", "a"), cell_that_drew("image/png", "a"), True),
        (cell_that_drew("text/html", "<p>a 1"), cell_that_drew("text/html", "<b>a 1"), False),
        (cell_that_drew("text/html", "<p>a 1"), cell_that_drew("text/html", "<p>a 2"), True),
        (cell_that_warned(), cell_that_warned(), True),
    ],
)
def test_outputs_are_compared(before, now, differs, run):
    notebooks = [nbformat.v4.new_notebook(cells=[cell]) for cell in (before, now)]
    assert bool(run.differences(*notebooks)) is differs


def test_a_drawn_graph_is_saved_as_an_image_and_its_words_are_compared(run):
    cells = [
        cell_that_drew("text/html", f"<p><svg><text>a {n}</text></svg></p>") for n in (1, 1, 2)
    ]
    one, same, other = (run.cleaned(nbformat.v4.new_notebook(cells=[cell])) for cell in cells)
    assert re.fullmatch(
        r'<p><img src="data:image/svg\+xml;base64,[\w+/]+=*"></p>',
        one.cells[0].outputs[0].data["text/html"],
    )
    assert run.cleaned(one) == one
    assert run.differences(one, same) == []
    assert "a 2" in run.differences(one, other)[0]


def test_the_size_of_a_picture_is_saved(run):
    cell = cell_that_drew("image/png", "")
    cell.outputs[0].metadata = {"image/png": {"width": 9, "height": 6}, "needs_background": "light"}
    saved = run.cleaned(nbformat.v4.new_notebook(cells=[cell]))
    assert saved.cells[0].outputs[0].metadata == {"image/png": {"width": 9, "height": 6}}


BROKEN_LATER = """
import sys
sys.path.insert(0, "../examples")
from lecture import pictures
scale = 1.0
pictures.slider(lambda v: pictures.axes().plot([0, v / scale]), v=(0, 1, 0))
"""


@pytest.mark.slow(landing=True)
def test_a_slider_that_another_cell_has_broken_is_found(run, tmp_path):
    """The cells work one after the other; who then moves the slider divides by a text."""
    cells = [nbformat.v4.new_code_cell(source) for source in (BROKEN_LATER, "scale = 'large'")]
    path = tmp_path / "sliders.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (found,) = run.check(path, save=False)
    assert "TypeError" in found
    assert "try_sliders" in found


def test_what_is_saved_depends_on_no_machine(run):
    slider = nbformat.v4.new_output(
        "display_data", data={run.SLIDER: {"model_id": "1f"}, "text/plain": "FloatSlider()"}
    )
    result = nbformat.v4.new_output("execute_result", data={"text/plain": "1"}, execution_count=3)
    cells = [
        nbformat.v4.new_code_cell("1", outputs=[result, slider], metadata={"collapsed": True})
        for _ in range(2)
    ]
    cells[0].execution_count = 3
    saved = run.cleaned(nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {}}))
    nbformat.validate(saved)
    assert set(saved.metadata) == {"kernelspec", "language_info"}
    assert [out.data for out in saved.cells[0].outputs] == [{"text/plain": "1"}]
    assert saved.cells[0].outputs[0].execution_count is None
    assert [cell.metadata for cell in saved.cells] == [{}, {}]
    assert saved.cells[1].id == f"{saved.cells[0].id}-2"
    assert run.cleaned(saved) == saved
