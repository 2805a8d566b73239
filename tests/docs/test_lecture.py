"""Every section of the lecture is taught in a notebook, and the table leads there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

import lecture_pages  # noqa: E402


def test_each_of_the_47_sections_is_taught():
    assert len(set(lecture_pages.SECTIONS)) == 47
    assert sorted(lecture_pages.taught()) == list(range(1, 48))


def test_a_section_that_no_cell_teaches_is_missing(tmp_path):
    titles = ["# Scalars\n", "## Why *slopes* multiply\n"]
    cells = [
        {"cell_type": "markdown", "source": titles, "metadata": {}},
        {"cell_type": "code", "source": ["1"], "metadata": {"tags": ["section:6", "varies"]}},
        {"cell_type": "code", "source": ["2"], "metadata": {"tags": ["solution"]}},
    ]
    (tmp_path / "01_scalar.ipynb").write_text(json.dumps({"cells": cells}))
    found = lecture_pages.taught(tmp_path)
    assert found == {6: [("01_scalar.ipynb", "Why *slopes* multiply")]}
    assert lecture_pages.anchor("Why *slopes* multiply") == "why-slopes-multiply"


def test_the_index_names_every_notebook():
    index = (ROOT / "docs" / "lecture" / "index.md").read_text()
    notebooks = sorted((ROOT / "notebooks").glob("0*.ipynb"))
    assert len(notebooks) == 5
    assert all(f"../../notebooks/{notebook.name}" in index for notebook in notebooks)


@pytest.mark.parametrize("number", lecture_pages.NUMBERS, ids=lambda number: number[0])
def test_each_number_is_printed_where_the_table_leads(number):
    _, file, heading, texts = number
    notebook = json.loads((ROOT / "notebooks" / file).read_text())
    printed = lecture_pages.shown(notebook, heading)
    assert texts
    assert [text for text in texts if text not in printed] == [], printed
    assert f"[{file.removesuffix('.ipynb')}: {heading}]" in lecture_pages.numbers()


def test_what_is_printed_under_another_heading_does_not_count():
    cell = {"cell_type": "code", "outputs": [{"text": ["loss 4\n"]}, {"data": {}}]}
    titles = [{"cell_type": "markdown", "source": [f"## {name}\n"]} for name in ("A", "B")]
    notebook = {"cells": [titles[0], cell, titles[1]]}
    assert lecture_pages.shown(notebook, "A") == "loss 4"
    assert lecture_pages.shown(notebook, "B") == ""
