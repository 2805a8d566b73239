"""The comparison of a page with what its code prints sees what is wrong, and nothing else."""

from __future__ import annotations

import pytest

from tests.docs import pages


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("the op\n`sin`", "the  op `sin`"),
        ("0.25 nan", "0.26 nan"),
        ("0.63969994", "0.6397"),
        ("1.2e-05", "1.3e-05"),
        ("(32, 16) [ 1.  2.]", "(32, 16) [ 1.00001  2.]"),
        ("first ... last", "first of many words, the last"),
        ("ends ...", "ends anyhow"),
        ("functions.py:12 (f)", "functions.py:99 (f)"),
    ],
)
def test_what_agrees(shown, printed):
    assert pages.disagreement("page", shown, printed) is None


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("sin", "cos"),
        ("0.25", "0.28"),
        ("0.25", "-0.25"),
        ("3 steps", "4 steps"),
        ("0.64", "nan"),
        ("one", "one two"),
        ("one two", "one"),
        ("", "printed"),
        ("first ... last", "first of many"),
        ("page.py:12 (f)", "page.py:13 (f)"),
        ("float32[5,3]", "float32[3,5]"),
    ],
)
def test_what_does_not_agree(shown, printed):
    assert pages.disagreement("page", shown, printed) is not None


def test_a_page_runs_as_a_script_with_its_own_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\nprint(x)\n```\n\n```text\n1\n```\n\n```bash\nls\n```\n\n"
        "```python\ntry:\n    1 / 0\nexcept ZeroDivisionError as error:\n"
        "    print(error.__traceback__.tb_lineno)\n```\n\n```text\n5\n```\n"
    )
    pages.check(page, tmp_path)
    page.write_text(page.read_text().replace("\n5\n", "\n4\n"))
    with pytest.raises(AssertionError, match=r"page\.md: shown '4', printed '5'"):
        pages.check(page, tmp_path)
