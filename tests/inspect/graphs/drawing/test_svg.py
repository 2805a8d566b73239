"""The pictures: well-formed, everything once, nothing on top of something else, text in its box."""

import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import combinations

import jax
import matplotlib
import numpy as np
import pytest
from PIL import ImageFont

import funcgrad
from funcgrad.inspect.graphs.drawing import svg
from funcgrad.inspect.graphs.drawing.svg import Picture, draw
from funcgrad.inspect.graphs.drawing.views import Frame, views_of
from tests.inspect.graphs import pictured

SVG = "{http://www.w3.org/2000/svg}"
FONTS = matplotlib.get_data_path() + "/fonts/ttf/"


@pytest.fixture(params=pictured.PICTURED, ids=lambda make: make.__name__)
def views(request):
    return views_of(request.param())[:40]


def parsed(view):
    return ET.fromstring(draw(view))


def nodes_of(picture):
    """By its name, each drawn node."""
    kinds = {"tensor", "op", "group"}
    found = [g for g in picture.iter(SVG + "g") if kinds & set(g.get("class").split())]
    return {g.get("id").split("-")[1]: g for g in found}


def box_of(group):
    """Left, top, right and bottom of a node."""
    left, top = map(float, re.findall(r"[-\d.]+", group.get("transform")))
    box = next(rect for rect in group.iter(SVG + "rect") if rect.get("class") == "box")
    return left, top, left + float(box.get("width")), top + float(box.get("height"))


def box_of_frame(rect):
    left, top, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
    return left, top, left + width, top + height


def edges_of(picture, way="forward"):
    return [p for p in picture.iter(SVG + "path") if p.get("class") == f"edge {way}"]


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_each_node_is_drawn_once(views):
    for view in views:
        picture = parsed(view)
        ids = Counter(element.get("id") for element in picture.iter() if element.get("id"))
        assert set(ids.values()) == {1}
        named = [shown.key for shown in view.shown] + [view.key(item) for item in view.drawn]
        assert sorted(nodes_of(picture)) == sorted(named)


def test_what_is_drawn_says_what_it_is(views):
    for view in views:
        tensors, ops, groups = set(), set(), set()
        for node in nodes_of(parsed(view)).values():
            tensors |= {
                *map(int, f"{node.get('data-tensor', '')} {node.get('data-also', '')}".split())
            }
            ops |= {*map(int, node.get("data-op", "").split())}
            groups |= {*map(int, node.get("data-view", "").split())}
        own = {
            op.index
            for op in (*view.group.opened, *(o for f in view.frames for o in f.group.calls))
        }
        own |= {op.index for frame in view.frames for op in frame.group.opened}
        assert ops | own == {op.index for op in view.operations}
        assert {t.index for t in view.tensors} <= tensors
        assert groups == {inner.index for inner in view.views.values()}


def test_no_two_nodes_overlap(views):
    for view in views:
        boxes = [box_of(node) for node in nodes_of(parsed(view)).values()]
        assert not any(overlap(a, b) for a, b in combinations(boxes, 2))


def test_everything_is_inside_the_picture(views):
    for view in views:
        picture = parsed(view)
        width, height = float(picture.get("width")), float(picture.get("height"))
        for left, top, right, bottom in map(box_of, nodes_of(picture).values()):
            assert left >= 0
            assert top >= 0
            assert right <= width
            assert bottom <= height


def test_frames_are_around_what_they_hold_and_nothing_else(views):
    for view in views:
        picture = Picture(view)
        frames = [g for g in parsed(view).iter(SVG + "g") if g.get("class") == "frame"]
        drawn = {key: box_of(node) for key, node in nodes_of(parsed(view)).items()}
        assert len(frames) == len(view.frames)
        for group, frame in zip(frames, view.frames, strict=True):
            around = box_of_frame(group.find(SVG + "rect"))
            inside = {frame, *(inner for inner in view.frames if is_inside(inner, frame))}
            held = {key for key, home in picture.homes.items() if home in inside}
            assert {key for key, box in drawn.items() if overlap(box, around)} == held


def is_inside(inner, frame):
    return inner in frame.items or any(
        is_inside(inner, other) for other in frame.items if isinstance(other, Frame)
    )


def test_edges_end_at_their_nodes(views):
    for view in views:
        picture = parsed(view)
        boxes = {key: box_of(node) for key, node in nodes_of(picture).items()}
        for edge in (*edges_of(picture), *edges_of(picture, "backward")):
            points = [
                tuple(map(float, p.split(",")))
                for p in re.findall(r"[-\d.]+,[-\d.]+", edge.get("d"))
            ]
            down = edge.get("class").endswith("forward")
            for key, (x, y), side in (
                (edge.get("data-from"), points[0], 3 if down else 1),
                (edge.get("data-to"), points[-1], 1 if down else 3),
            ):
                assert y == pytest.approx(boxes[key][side], abs=0.6)
                assert boxes[key][0] <= x <= boxes[key][2]


def point_on(curve, t):
    """A point of a cubic Bézier curve."""
    a, b, c, d = np.asarray(curve)
    return (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d


def test_edges_run_around_nodes(views):
    """Few edges of a tangle are led through a corner of a node; no other edge is."""
    edges = through = 0
    for view in views:
        picture = Picture(view)
        for edge, curve in zip(view.edges, picture.curves, strict=True):
            pieces = [curve[i : i + 4] for i in range(0, len(curve) - 1, 3)]
            points = [point_on(piece, t) for piece in pieces for t in np.linspace(0, 1, 20)]
            others = [box for key, box in picture.boxes.items() if key not in edge_ends(edge)]
            edges += 1
            through += any(is_in(point, box) for box in others for point in points)
    assert through <= 0.01 * edges if len(views) > 30 else through == 0


def edge_ends(edge):
    return edge.source, edge.target


def is_in(point, box):
    return abs(point[0] - box.x) < box.width / 2 - 1 and abs(point[1] - box.y) < box.height / 2 - 1


def test_forward_runs_down_and_backward_up(views):
    for view in views:
        picture = parsed(view)
        boxes = {key: box_of(node) for key, node in nodes_of(picture).items()}
        for edge in edges_of(picture):
            assert boxes[edge.get("data-from")][3] < boxes[edge.get("data-to")][1]
        for edge in edges_of(picture, "backward"):
            assert boxes[edge.get("data-from")][1] > boxes[edge.get("data-to")][3]


def test_text_is_inside_its_box(views):
    """Measured with DejaVu, the widest of the fonts that are likely to be there."""
    for view in views:
        for node in nodes_of(parsed(view)).values():
            left, _, right, _ = box_of(node)
            for text in node.iter(SVG + "text"):
                assert width_of(text, node.get("class").split()) <= right - left


def width_of(text, kinds):
    """The width of a node's line of text, or of the widest of several."""
    spans = [(span.get("class"), span.text) for span in text.iter(SVG + "tspan")]
    if text.get("class") != "label":
        return max(width_in("DejaVuSansMono.ttf", 11, row) for _, row in spans)
    sizes = {"name": 12, "variable": 12, "type": 10, "note": 10}
    mono = "DejaVuSansMono-Bold.ttf" if "tensor" in kinds else "DejaVuSans-Bold.ttf"
    fonts = {"name": mono, "variable": mono, "type": "DejaVuSansMono.ttf", "note": "DejaVuSans.ttf"}
    return sum(width_in(fonts[kind], sizes[kind], row) for kind, row in spans) + 6 * (
        len(spans) - 1
    )


def width_in(font, size, text):
    return ImageFont.truetype(FONTS + font, 100).getlength(text) * size / 100


def numbers_of(node, kind):
    rows = [
        t for text in node.iter(SVG + "text") if text.get("class") == kind for t in text.itertext()
    ]
    return [float(cell) for row in rows for cell in row.split()]


def test_numbers_are_those_of_jax():
    def loss(v, w, x, target):
        return (v @ jax.nn.sigmoid(w @ x) - target) ** 2

    args = (pictured.VECTOR, np.float32([[1, 2], [0.5, -1], [0, 3]]), np.float32([0.3, -0.4]), 12.1)
    graph = funcgrad.inspect.graph(loss, *args)
    nodes = nodes_of(parsed(views_of(graph)[0]))
    gradients = jax.grad(loss, range(4))(*args)
    for tensor, arg, gradient in zip(graph.inputs, args, gradients, strict=True):
        node = nodes[f"t{tensor.index}"]
        np.testing.assert_allclose(numbers_of(node, "value"), np.ravel(arg), rtol=6e-3)
        np.testing.assert_allclose(numbers_of(node, "gradient"), np.ravel(gradient), rtol=6e-3)
    (result,) = graph.results
    np.testing.assert_allclose(
        numbers_of(nodes[f"t{result.index}"], "value"), loss(*args), rtol=6e-3
    )


def test_cotangents_come_back_where_there_are_some():
    def fun(x, y):
        return jax.lax.stop_gradient(jax.numpy.sin(x)) * y

    graph = funcgrad.inspect.graph(fun, np.float32(1), np.float32(2))
    picture = parsed(views_of(graph)[0])
    x, y = (f"t{tensor.index}" for tensor in graph.inputs)
    reached = {edge.get("data-to") for edge in edges_of(picture, "backward")}
    assert y in reached
    assert x not in reached
    assert len(edges_of(picture)) == len(graph.nodes) * 2 + 1


def test_both_operands_of_a_square_are_drawn():
    graph = funcgrad.inspect.graph(lambda x: x * x, np.float32(3))
    picture = parsed(views_of(graph)[0])
    (x,) = graph.inputs
    into = [edge for edge in edges_of(picture) if edge.get("data-from") == f"t{x.index}"]
    assert [edge.get("data-operand") for edge in into] == ["0", "1"]
    assert len([e for e in edges_of(picture, "backward") if e.get("data-to") == f"t{x.index}"]) == 2


def test_numbers_in_the_code_stand_in_the_operations_that_read_them():
    times = jax.jit(jax.lax.mul)
    graph = funcgrad.inspect.graph(lambda x: times(2.5 - x, 7.5), np.float32(1))
    nodes = nodes_of(parsed(graph.views()[0])).values()
    ops = {tuple(node.itertext()) for node in nodes if node.get("class") == "op"}
    assert {text[1:] for text in ops} == {("sub", "(2.5, ·)"), ("mul", "(·, 7.5)")}


def test_what_differs_looks_different():
    graph = funcgrad.inspect.graph(
        lambda x: (x * pictured.VECTOR).sum().astype("bfloat16"), pictured.VECTOR
    )
    kinds = {node.get("class") for node in nodes_of(parsed(graph.views()[0])).values()}
    assert {"tensor argument", "tensor constant", "tensor value result", "op", "op quiet"} <= kinds


def test_views_of_the_same_form_share_a_layout():
    views = {view.full_name: view for view in pictured.transformer(3).views()}
    svg.lay_out.cache_clear()
    draw(views["Transformer/layer_1/LayerNorm_0"])
    draw(views["Transformer/layer_2/LayerNorm_0"])
    assert svg.lay_out.cache_info()[:2] == (1, 1)


def test_a_picture_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    svg.lay_out.cache_clear()
    graph = pictured.used_twice()
    with pytest.raises(
        funcgrad.errors.MissingPackageError, match=r"pip install .funcgrad\[pictures\]"
    ):
        graph.to_svg()
    assert "funcgrad[pictures]" in graph._repr_html_()


def recurrent(w, xs):
    def step(h, x):
        h = w * h + x
        return h, None

    return jax.lax.scan(step, np.float32(0), xs)[0]


@pytest.mark.parametrize(("step", "number"), [(-1, 2), (0, 0), (1, 1), ((2,), 2)])
def test_a_value_in_a_scan_has_the_numbers_of_one_step(step, number):
    xs = np.float32([3, 5, 7])
    graph = funcgrad.inspect.graph(recurrent, np.float32(0.5), xs)
    picture = graph.to_svg(view="step", step=step)
    entering = [0, 3, 6.5][number]  # h = w h + x
    for value, gradient in ((xs[number], 0.5 ** (2 - number)), (entering, 0.5 ** (3 - number))):
        numbers = rf">{value:g}</tspan></text><text class=\"gradient\">.*?>{gradient:.3g}<"
        assert re.search(numbers, picture)
    assert f"step {number + 1}<" in picture


def test_a_step_that_a_loop_does_not_take_has_no_numbers():
    graph = funcgrad.inspect.graph(recurrent, np.float32(0.5), np.float32([3, 5, 7]))
    assert 'class="gradient"' not in graph.to_svg(view="step", step=3)


@jax.custom_vjp
def straight_through(x):
    return jax.numpy.round(x)


straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, ct: (ct,))


@jax.custom_jvp
def squared(x):
    return x * x


squared.defjvp(lambda xs, ts: (squared(*xs), 2 * xs[0] * ts[0]))


def test_a_picture_without_cotangents_says_why():
    graph = funcgrad.inspect.graph(lambda x: squared(2 * x), 0.7)
    assert "own tangent rule is walked back" in graph.to_svg(view="squared")
    graph = funcgrad.inspect.graph(lambda x: straight_through(2 * x), 0.7)
    assert "own backward function runs" in graph.to_svg(view="straight_through")
    assert "own backward function runs" not in graph.to_svg()
