"""What docs/how_it_works.md shows runs, and prints what it says."""

import re
import runpy
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how_it_works.md"


def test_the_page_prints_what_it_shows(tmp_path, capsys):
    text = PAGE.read_text()
    script = tmp_path / "how_it_works.py"  # a file, since names come from the source
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)))
    runpy.run_path(str(script))
    shown = "".join(re.findall(r"```text\n(.*?)```", text, re.S))
    assert capsys.readouterr().out.splitlines() == shown.splitlines()
