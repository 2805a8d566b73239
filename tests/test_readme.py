"""What the README and CONTRIBUTING show runs as shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_readme_runs_from_top_to_bottom(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) >= 3
    exec(compile("\n".join(blocks), "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out.split()
    assert printed[:2] == ["12.0", "12.0"]
    assert float(printed[2]) == pytest.approx(0.78645, abs=1e-4)  # 1 / cosh(0.5)^2


def test_the_rule_in_contributing_is_right():
    import jax
    from jax import lax

    import funcgrad

    source = re.findall(r"```python\n(@defvjp.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    scope = {"defvjp": funcgrad.defvjp, "lax": lax}
    exec(compile(source[0], "CONTRIBUTING.md", "exec"), scope)
    rules = funcgrad.DEFAULT.override({lax.atan2_p: scope["atan2_vjp"]})
    ours = funcgrad.grad(lax.atan2, (0, 1), rules=rules)(0.3, -1.7)
    expected = jax.grad(lax.atan2, (0, 1))(0.3, -1.7)
    assert [float(ct) for ct in ours] == pytest.approx([float(ct) for ct in expected])
