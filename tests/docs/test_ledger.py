"""What the page about the ledger shows runs, and finds what the page says."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"


def test_the_page_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {"__name__": "page"})
    out = capsys.readouterr().out
    assert "tanh (output 0)" in out
    kept, by_jax, temporary = map(int, out.splitlines()[-1].split())
    assert kept < by_jax
    assert 1 / 3 < kept / temporary < 3
