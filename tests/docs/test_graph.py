"""What docs/graph.md shows is printed."""

from __future__ import annotations

from tests.docs import pages


def test_the_page_prints_what_it_shows(tmp_path, capsys):
    pages.check_to_the_letter(pages.DOCS / "graph.md", tmp_path / "loss.py", capsys)
