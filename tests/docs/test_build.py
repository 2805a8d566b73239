"""The command that builds the site fails where Sphinx does and where a link leads nowhere."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

BUILD = Path(__file__).parents[2] / "docs" / "build.py"


@pytest.fixture
def build(monkeypatch) -> Any:
    """The module, with a Sphinx that makes nothing and says what ``status`` says."""
    spec = importlib.util.spec_from_file_location("build_docs", BUILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.commands = []

    def call(command: list[str], **_: Any) -> int:
        module.commands.append(command)
        return module.status

    monkeypatch.setattr(module.subprocess, "call", call)
    return module


@pytest.mark.parametrize(("status", "link"), [(0, "#top"), (1, "#top"), (0, "gone.html")])
def test_a_warning_or_a_link_that_leads_nowhere_is_a_failure(build, tmp_path, capsys, status, link):
    (tmp_path / "index.html").write_text(f'<h1 id="top"></h1><a href="{link}"></a>')
    build.status = status
    assert bool(build.main([str(tmp_path)])) == (status == 1 or link == "gone.html")
    assert ("gone.html" in capsys.readouterr().out) == (link == "gone.html")


def test_warnings_are_errors_and_nothing_is_taken_from_an_earlier_build(build, tmp_path):
    build.status = 0
    build.main([str(tmp_path)])
    (command,) = build.commands
    assert {"-W", "-E", "-a"} <= set(command)
    assert command[-1] == str(tmp_path)
