"""What docs/methods.md shows runs as shown."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def test_the_snippets_run_from_top_to_bottom():
    pytest.importorskip("flax")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "methods.md").read_text(), re.S)
    assert len(blocks) == 8
    scope = {"__name__": "methods"}
    exec(compile("\n".join(blocks), "methods.md", "exec", dont_inherit=True), scope)
    assert scope["heat"].shape == (6, 6)
    assert scope["pixels"].shape == scope["image"].shape
    assert scope["effects"].shape == (6, 6, 4)
