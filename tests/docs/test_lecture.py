"""Every section of the lecture is taught in a notebook, and the table leads there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

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
