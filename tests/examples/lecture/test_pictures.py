"""What the notebooks show: plots in the common style, sliders that redraw, pages in a frame."""

import base64
import re

import matplotlib.pyplot as plt
import pytest

pytest.importorskip("ipywidgets", reason="pictures need pip install 'funcgrad[notebooks]'")


@pytest.fixture
def pictures(styled):
    from lecture import pictures

    return pictures


def test_the_colours_are_those_of_drawn_graphs(pictures):
    from funcgrad.inspect.graphs.drawing.style import LIGHT

    assert f"--number: {pictures.VALUE};" in LIGHT
    assert f"--back: {pictures.DERIVATIVE};" in LIGHT


def test_axes_have_the_size_that_was_asked_for(pictures):
    one = pictures.axes(width=5, height=2)
    assert tuple(one.figure.get_size_inches()) == (5, 2)
    assert pictures.axes(3, rows=2).shape == (2, 3)


def test_a_mark_is_a_point_with_its_text(pictures):
    ax = pictures.axes()
    pictures.mark(ax, 1.0, 2.0, "here")
    assert ax.lines[0].get_xydata().tolist() == [[1.0, 2.0]]
    assert ax.texts[0].get_text() == "here"


def test_bars_have_their_numbers(pictures):
    ax = pictures.axes()
    pictures.bars(ax, ["v1", "v2"], [1.0, -2.5], "weights", pictures.DERIVATIVE)
    assert [bar.get_height() for bar in ax.patches] == [1.0, -2.5]
    assert [text.get_text() for text in ax.texts] == ["1", "-2.5"]
    assert ax.get_title(loc="left") == "weights"


def test_a_table_rounds_noise_away(pictures, capsys):
    pictures.table([("y", 10.1, -4.0), ("loss", 1e-17, 1 / 3)], "node", "value", "derivative")
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        ["node", "value", "derivative"],
        ["y", "10.1", "-4"],
        ["loss", "0", "0.333333"],
    ]


def test_a_slider_draws_again_when_it_is_moved(pictures, monkeypatch):
    shown = []

    class Handle:
        def update(self, picture):
            shown.append(picture)

    def display(thing, display_id=None):
        shown.append(thing)
        return Handle() if display_id else None

    monkeypatch.setattr(pictures, "display", display)
    drawn = []

    def draw(v):
        drawn.append(v)
        pictures.axes().plot([0, v])

    pictures.slider(draw, v=(-1.0, 1.0, 0.5))
    first, control = shown
    control.value = -1.0
    assert drawn == [0.5, -1.0]
    assert first.data.startswith(b"\x89PNG")
    assert shown[2].data != first.data
    assert plt.get_fignums() == []


def test_a_slider_that_fails_at_its_end_is_found(pictures, monkeypatch):
    monkeypatch.setattr(pictures, "display", lambda thing, display_id=None: None)
    pictures.slider(lambda v: pictures.axes().plot([0, 1 / v]), v=(0.0, 1.0, 0.5))
    with pytest.raises(ZeroDivisionError):
        pictures.try_sliders()


def test_a_graph_is_shown_in_its_full_height(pictures):
    pytest.importorskip("pygraphviz", reason="a picture needs pip install 'funcgrad[pictures]'")
    import funcgrad

    graph = funcgrad.inspect.graph(lambda x: x * x, 3.0)
    assert "max-height" in graph._repr_html_()
    shown = pictures.whole(graph).data
    assert "<svg" in shown
    assert "max-height" not in shown


def test_a_page_is_in_a_frame_of_its_own(pictures):
    pytest.importorskip("pygraphviz", reason="a page needs pip install 'funcgrad[pictures]'")
    import funcgrad

    graph = funcgrad.inspect.graph(lambda x: x * x, 3.0)
    shown = pictures.page(graph).data
    assert '<iframe sandbox="allow-scripts"' in shown
    assert "&lt;!doctype html&gt;" in shown
    drawn = re.search(
        r'<img src="data:image/svg\+xml;base64,([^"]*)">', shown.partition("<iframe")[0]
    )
    assert base64.b64decode(drawn[1]).decode() == graph.to_svg()  # where frames are left out
