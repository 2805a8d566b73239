"""A graph in a file and in a notebook."""

import re

import pytest

import funcgrad
from tests.inspect.graphs import pictured


@pytest.fixture(scope="module")
def transformer():
    return pictured.transformer(2)


def test_a_picture_is_written(tmp_path):
    graph = pictured.used_twice()
    text = graph.to_svg(tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_text() == text
    assert text.startswith("<svg ")


@pytest.mark.parametrize(
    ("asked", "name"),
    [("layer_1", "layer_1"), ("layer_0/LayerNorm_1", "LayerNorm_1"), (0, "<lambda>")],
)
def test_a_view_is_found(transformer, asked, name):
    label = re.search('aria-label="(.*?)"', transformer.to_svg(view=asked))
    assert label is not None
    assert label[1].replace("&lt;", "<").replace("&gt;", ">") == name


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            "LayerNorm_0",
            r"Several have this name(.|\n)*layer_0/LayerNorm_0(.|\n)*layer_1/LayerNorm_0",
        ),
        ("layer_2", r"have other names(.|\n)*layer_1"),
        (99, "The view 99"),
        (-1, "The view -1"),
    ],
)
def test_a_view_is_not_guessed(transformer, asked, said):
    with pytest.raises(funcgrad.errors.SelectorError, match=said):
        transformer.to_svg(view=asked)


def test_notebooks_show_the_picture(transformer):
    shown = transformer._repr_html_()
    assert "<svg " in shown
    assert ": layer_1" in shown
    assert "<svg " in transformer.views()[1]._repr_html_()
