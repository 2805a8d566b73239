"""The example of a dying network says which layers die, and that the repaired one learns."""

import importlib
import re
import sys
from pathlib import Path

import pytest

for library in ("sklearn", "matplotlib"):
    pytest.importorskip(
        library, reason=f"{library} is not installed: pip install 'funcgrad[examples]'"
    )
EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_first_layers_vanish_until_they_are_repaired(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    try:
        importlib.import_module("gradient_flow").main(steps=201)
    finally:
        sys.modules.pop("gradient_flow", None)
    text = capsys.readouterr().out
    dying, repaired, _ = text.split("accuracy")
    assert re.search(r"layer_00 .* vanishing$", dying, re.M)
    assert not re.search(r"layer_14 .* vanishing$", dying, re.M)
    assert "Nothing is flagged." in repaired
    assert repaired.count(" 0 layers vanish") == 3
    without, with_repair = map(int, re.findall(r"not seen: (\d+)%", text))
    assert without < 30
    assert with_repair > 80
    for name in ("gradient_flow", "gradient_flow_repaired"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
