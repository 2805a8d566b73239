"""What docs/how_it_works.md shows runs, and prints what it says."""

from tests.docs import pages


def test_the_page_prints_what_it_shows(tmp_path, capsys):
    pages.check_to_the_letter(pages.DOCS / "how_it_works.md", tmp_path / "how_it_works.py", capsys)
