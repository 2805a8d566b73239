"""What the README and CONTRIBUTING show runs as shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_readme_runs_from_top_to_bottom(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes a page
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 4
    exec(compile("\n".join(blocks), "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    shown = re.findall(r"^print\(.*\)  # (.*)$", "\n".join(blocks), re.M)
    shown = [line.split(", as by")[0] for line in shown if "formula" not in line]
    assert shown.pop() == "1 / 12"
    assert float(printed.splitlines()[-1]) == pytest.approx(1 / 12, rel=1e-5)
    assert shown == ["[0. 0.]", "[2. 6.]", "1.0 2.0", "y = tanh(x);  x̄ = ȳ (1 - y²)"]
    assert [line for line in shown if line not in printed.splitlines()] == []
    assert "def tanh_vjp(ct" in printed
    assert (tmp_path / "graph.html").stat().st_size > 10_000


def test_the_readmes_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert len(targets) > 30
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert missing == []


def test_what_contributing_shows_runs(capsys):
    text = (ROOT / "CONTRIBUTING.md").read_text().split("# Add an op, a call or a tool")[1]
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 4
    exec(
        compile("\n".join(blocks), "CONTRIBUTING.md", "exec", dont_inherit=True),
        {"__name__": "contributing"},
    )
    assert capsys.readouterr().out.splitlines() == ["12.0", "0.5403023", "0.1", "['mul', 'sin']"]


def test_what_architecture_shows_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text(), re.S)
    exec(compile("\n".join(blocks), "ARCHITECTURE.md", "exec"), {"__name__": "architecture"})
    assert "('output', 0)" in capsys.readouterr().out


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


def test_what_the_page_of_backward_methods_shows_runs(capsys):
    text = (ROOT / "docs" / "methods_backward.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(
        compile("\n".join(blocks), "methods_backward.md", "exec"), {"__name__": "methods_backward"}
    )
    assert capsys.readouterr().out.splitlines() == [
        "(16,) (16,)",
        "True",
        "8.0",
        "[-0.333  0.     0.333]",
        "True",
        "True False",
        "{\"['hidden']\": ((1, 4, 4), (1, 8, 8)), \"['out']\": ((1, 8, 8), (1, 2, 2))}",
    ]
