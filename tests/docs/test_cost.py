"""What docs/cost.md shows runs as shown, and prints what it says."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "cost.md").read_text()


def test_the_snippets_print_what_is_shown(capsys):
    blocks = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.S)
    snippets = [code for language, code in blocks if language == "python"]
    assert len(snippets) == 3
    exec(compile("\n".join(snippets), "cost.md", "exec", dont_inherit=True), {"__name__": "cost"})
    printed = capsys.readouterr().out.splitlines()
    shown = [
        line for language, text in blocks if not language for line in text.splitlines() if line
    ]
    ours = [line for line in shown if not line.startswith(("Cost of", "XLA", "As XLA", "..."))]
    assert len(ours) > 15
    assert [line for line in ours if line not in printed] == []
    assert "[10]" in printed
