"""The page, read as a file and driven in Chromium."""

from __future__ import annotations

import base64
import gzip
import html
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcgrad
from funcgrad.inspect import graph
from tests.inspect.graphs.browser import chromium, opened, why_not

HOSTILE = "</script><script>window.stolen=1</script><img src=x onerror='window.stolen=1'>"


def used_twice(x):
    """At 3: y = 9, s = sin 3, and the gradient is 2 · 3 + cos 3."""
    y = x**2
    s = jnp.sin(x)
    return y + s


def waves(x):
    """Two groups of more operations than are drawn in place, with one between them."""
    for scope in ("low", "high"):
        with jax.named_scope(scope):
            for _ in range(12):
                x = jnp.sin(x)
        x = x * 2
    return x


def walk(w, h):
    """A loop of 5 steps."""

    def step(h, _):
        h = jnp.tanh(w @ h)
        return h, None

    return jnp.sum(jax.lax.scan(step, h, length=5)[0])


@jax.custom_vjp
def doubled(x):
    return 2 * x


doubled.defvjp(lambda x: (doubled(x), None), lambda _, ct: (2 * ct,))


def mixed(x, i):
    """Integers, complex numbers, a branch, a loop, a function with a rule of its own, and NaNs."""
    y = jax.lax.cond(i > 1, jnp.sin, jnp.cos, x[i])
    y, _ = jax.lax.while_loop(lambda c: c[1] < 3, lambda c: (jnp.sin(c[0]), c[1] + 1), (y, 0))
    z = jnp.sum(jnp.abs(jnp.fft.fft(x)))
    return doubled(y) + z + jnp.sum(jnp.log(0 * x) * x)


def hostile(given):
    y = given[HOSTILE] * 2  # </script><script>window.stolen=1</script>
    with jax.named_scope("<img src=x onerror=alert(1)>"):
        return jnp.sin(y)


hostile.__name__ = HOSTILE


def test_the_page_names_no_address():
    text = graph(used_twice, 3.0).to_html()
    asked = r"""(src|href)\s*=\s*["'](?!data:)|url\(|@import|https?://|fetch\(|XMLHttp|WebSocket"""
    assert not re.search(asked, text)


def test_no_text_of_the_user_is_part_of_the_page():
    text = graph(hostile, {HOSTILE: 1.0}).to_html()
    assert "<script>window" not in text
    assert "<img" not in text
    assert text.count("<script") == 2


def test_the_same_graph_makes_the_same_page(tmp_path):
    path = tmp_path / "graph.html"
    made = graph(used_twice, 3.0)
    assert made.to_html(path) == made.to_html() == path.read_text(encoding="utf-8")


def test_the_page_holds_no_path_of_this_machine(tmp_path):
    page = graph(used_twice, 3.0).to_html()
    packed = re.search(r'octet-stream">([^<]*)<', page)
    assert packed is not None
    content = gzip.decompress(base64.b64decode(packed[1])).decode()
    assert "arithmetic.py" in content
    assert str(Path(funcgrad.__file__).parent) not in page + content


def test_what_the_guide_shows_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[3] / "docs" / "page.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, "page.md", "exec"), {"__name__": "page"})
    assert Path("graph.html").stat().st_size > 10_000


# --- in a browser ---------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The pages of the functions above."""
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "used_twice": graph(used_twice, 3.0),
        "waves": graph(waves, 0.5),
        "walk": graph(walk, *weights()),
        "mixed": graph(mixed, jnp.arange(100.0), 2),
        "identity": graph(lambda x: x, 3.0),
        "hostile": graph(hostile, {HOSTILE: 1.0}),
        "types": graph(used_twice, jax.ShapeDtypeStruct((3,), jnp.float32)),
    }
    for name, one in made.items():
        one.to_html(folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in made}


def weights():
    keys = jax.random.split(jax.random.key(0))
    return jax.random.normal(keys[0], (20, 20)) / 4, jax.random.normal(keys[1], (20,))


@pytest.fixture
def page(browser, paths, request):
    name = getattr(request, "param", "used_twice")
    with opened(browser, paths[name]) as made:
        yield made


of_waves = pytest.mark.parametrize("page", ["waves"], indirect=True)
of_walk = pytest.mark.parametrize("page", ["walk"], indirect=True)
of_types = pytest.mark.parametrize("page", ["types"], indirect=True)


def press(page, key, times=1):
    for _ in range(times):
        page.keyboard.press(key)


def heading(page):
    return page.inner_text("#panel h2"), page.inner_text("#panel .pill")


def shown_view(page):
    return page.inner_text("#breadcrumbs [aria-current]")


def states(page, name):
    """How a drawn value stands."""
    drawn = page.locator("#picture g.tensor", has=page.locator(f"text={name}")).first
    return set(drawn.get_attribute("class").split())


def drawn(page, what, name):
    return page.locator(f"#picture g.{what}[aria-label*='{name}']").first


@needs_browser
def test_steps_forward_then_backward(page):
    seen = [heading(page)]
    for _ in range(8):
        press(page, "ArrowRight")
        seen.append(heading(page))
    assert seen == [
        ("used_twice", "Start"),
        ("integer_pow", "Forward 1 of 3"), ("sin", "Forward 2 of 3"), ("add", "Forward 3 of 3"),
        ("used_twice", "The walk back begins"),
        ("add", "Backward 1 of 3"), ("sin", "Backward 2 of 3"), ("integer_pow", "Backward 3 of 3"),
        ("used_twice", "The gradient"),
    ]  # fmt: skip
    press(page, "ArrowRight")
    assert page.inner_text("#count") == "8 / 8"
    press(page, "ArrowLeft")
    assert heading(page) == ("integer_pow", "Backward 3 of 3")


@needs_browser
def test_steps_inside_a_frame_that_has_no_address(browser, paths, tmp_path):
    page = html.escape(paths["used_twice"].read_text(encoding="utf-8"))
    frame = f'<iframe sandbox="allow-scripts" srcdoc="{page}"></iframe>'
    (tmp_path / "notebook.html").write_text(f"<body data-ready>{frame}", encoding="utf-8")
    with opened(browser, tmp_path / "notebook.html") as notebook:
        inside = notebook.frame_locator("iframe")
        inside.locator("body[data-ready]").wait_for()
        inside.locator("#panel").press("ArrowRight")
        assert inside.locator("#panel h2").inner_text() == "integer_pow"


@needs_browser
def test_values_fill_in_as_the_run_reaches_them(page):
    made = drawn(page, "op", "sin")
    numbers = page.locator("#picture g.tensor text.value, #picture g.tensor text .value")
    visible = lambda: sum(number.is_visible() for number in numbers.all())
    assert visible() == 1  # x
    assert "unknown" in made.get_attribute("class")
    press(page, "ArrowRight", 2)
    assert visible() == 3
    assert {"now"} == {"unknown", "now"} & set(made.get_attribute("class").split())
    press(page, "End")
    assert visible() == 4
    assert page.locator("#picture :is(.unknown, .ct-unknown, .now)").count() == 0


@needs_browser
def test_a_sum_is_added_up(page):
    """First what sin gives, cos 3, then what the square adds, 2 · 3."""
    press(page, "ArrowRight", 6)
    told = page.inner_text("#panel .sum")
    assert "\u22120.99" in told
    assert "1 more to come" in told
    assert drawn(page, "tensor", "x").locator(".gradient").text_content() == "\u22120.99"
    press(page, "ArrowRight")
    terms = page.locator("#panel .sum .term").all_inner_texts()
    assert [" ".join(term.split()) for term in terms] == [
        "from sin \u22120.99", "+ from integer_pow 6", "= ct_x, whole 5.01",
    ]  # fmt: skip
    assert drawn(page, "tensor", "x").locator(".gradient").text_content() == "5.01"


@needs_browser
def test_a_step_shows_the_rule_and_the_line(page):
    press(page, "ArrowRight", 6)
    told = page.inner_text("#panel")
    assert "sin_vjp" in told or "cos" in told
    assert "elementwise.py" in told
    assert "s = jnp.sin(x)" in told


@needs_browser
def test_buttons_and_slider(page):
    page.click("#last")
    assert heading(page)[1] == "The gradient"
    page.click("#first")
    assert heading(page)[1] == "Start"
    page.click("#next")
    page.click("#next")
    page.click("#back")
    assert heading(page)[1] == "Forward 1 of 3"
    page.fill("#slider", "5")
    assert heading(page)[1] == "Backward 1 of 3"
    page.focus("#slider")
    press(page, "ArrowRight")
    assert heading(page)[1] == "Backward 2 of 3"
    press(page, "Home")
    assert heading(page)[1] == "Start"


@needs_browser
def test_plays_by_space_and_stops_at_the_end(page):
    press(page, "End")
    press(page, "ArrowLeft")
    press(page, " ")
    assert page.get_attribute("#play", "aria-pressed") == "true"
    page.wait_for_selector("#play[aria-pressed=false]")
    assert heading(page)[1] == "The gradient"


@needs_browser
@of_waves
def test_the_view_follows_the_step(page):
    assert page.locator("#picture g.group").count() == 2
    press(page, "ArrowRight")
    assert (shown_view(page), heading(page)) == ("low", ("sin", "Forward 1 of 26"))
    press(page, "ArrowRight", 12)
    assert (shown_view(page), heading(page)) == ("waves", ("mul", "Forward 13 of 26"))
    press(page, "ArrowRight")
    assert shown_view(page) == "high"
    page.click("#breadcrumbs button")
    assert shown_view(page) == "waves"
    assert "now" in drawn(page, "group", "high").get_attribute("class").split()


@needs_browser
@of_waves
def test_a_group_can_be_one_step(page):
    page.uncheck("#into")
    press(page, "ArrowRight")
    assert heading(page) == ("low", "Forward through a group")
    press(page, "ArrowRight", 2)
    assert heading(page) == ("high", "Forward through a group")
    assert shown_view(page) == "waves"
    press(page, "ArrowRight", 4)
    assert heading(page) == ("high", "Backward through a group")
    press(page, "ArrowLeft")
    assert heading(page) == ("mul", "Backward 1 of 26")
    drawn(page, "group", "low").click()
    press(page, "ArrowRight")
    assert heading(page) == ("high", "Backward through a group")
    press(page, "ArrowLeft")
    press(page, "Shift+ArrowRight")
    assert heading(page) == ("sin", "Backward 2 of 26")
    assert shown_view(page) == "high"


@needs_browser
@of_waves
def test_a_group_is_entered(page):
    drawn(page, "group", "high").click()
    assert page.inner_text("#breadcrumbs") == "waveshigh"
    assert page.locator("#picture g.op").count() == 12


@needs_browser
@of_waves
def test_search(page):
    press(page, "/")
    page.keyboard.type("high sin")
    assert page.inner_text("#hit-count") == "12 hits"
    assert page.locator("#picture g.group.hit").count() == 1
    press(page, "Enter")
    assert shown_view(page) == "high"
    assert heading(page) == ("sin", "Operation")
    press(page, "Enter")
    assert page.inner_text("#hit-count") == "2 of 12"
    lines = {"x * 2": 2, "test_page.py": 26, "argument": 1, "nowhere": 0}
    for text, count in lines.items():
        page.fill("#search", text)
        assert page.inner_text("#hit-count") == f"{count} hit{'s' * (count != 1)}"


@needs_browser
def test_a_click_tells_the_line(page):
    drawn(page, "op", "integer_pow").click()
    assert re.search(r"test_page.py:\d+ \(used_twice\)", page.inner_text("#panel"))
    assert page.inner_text("#panel pre >> nth=0") == "y = x**2"
    page.click("#panel .go button >> nth=1")
    assert heading(page) == ("integer_pow", "Backward 3 of 3")
    drawn(page, "tensor", "x").click()
    assert heading(page) == ("x", "Argument")
    press(page, "Escape")
    assert heading(page) == ("integer_pow", "Backward 3 of 3")


@needs_browser
def test_a_thing_is_chosen_by_keyboard(page):
    drawn(page, "op", "add").focus()
    press(page, "Enter")
    assert heading(page) == ("add", "Operation")


@needs_browser
@of_walk
def test_a_step_of_a_loop_is_chosen(page):
    """A value inside is shown for one step; the numbers are those of the loop run in NumPy."""
    w, h = map(np.asarray, weights())
    page.fill("#search", "jnp.tanh(w @ h)")
    page.locator("#hits button", has_text="tanh").click()
    page.click("#panel .go button >> nth=0")
    slider = page.locator("#panel input[type=range]").last
    for step in range(5):
        h = np.tanh(w @ h)
        slider.fill(str(step))
        told = page.locator("#panel .looped").last
        assert told.locator("output").inner_text() == f"step {step + 1} of 5"
        numbers = [text.replace("\u2212", "-") for text in told.locator("td").all_inner_texts()]
        np.testing.assert_allclose(np.array(numbers, float), h, rtol=6e-3, atol=1e-6)


@needs_browser
@of_walk
def test_a_large_value_is_a_heat_map_and_a_histogram(page):
    """The matrix of 20 by 20: its least and largest number, and a pixel of each sign."""
    w, _ = map(np.asarray, weights())
    drawn(page, "tensor", "w").click()
    canvas = page.locator("#panel canvas").first
    assert (canvas.get_attribute("width"), canvas.get_attribute("height")) == ("20", "20")
    colours = np.array(
        canvas.evaluate("c => [...c.getContext('2d').getImageData(0, 0, 20, 20).data]")
    )
    red, _, blue, seen = colours.reshape(20, 20, 4).transpose(2, 0, 1)
    clear = (np.abs(w) > 0.1) & (seen > 0)
    assert clear.sum() > 100
    assert ((red > blue) == (w > 0))[clear].all()
    assert page.locator("#panel .bars >> nth=0 >> span").count() == 16
    told = page.inner_text("#panel .facts >> nth=0").replace("\u2212", "-")
    least, largest = map(float, re.findall(r"-?\d+\.\d+", told)[:2])
    np.testing.assert_allclose([least, largest], [w.min(), w.max()], rtol=1e-3)


@needs_browser
@of_types
def test_types_alone_have_steps_without_numbers(page):
    assert "abstract" in page.inner_text("#panel")
    press(page, "ArrowRight", 6)
    assert heading(page) == ("sin", "Backward 2 of 3")
    assert "is used 2 times" in page.inner_text("#panel .sum h4")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(browser, paths, scheme):
    def brightness():
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    with opened(browser, paths["used_twice"], color_scheme=scheme) as page:
        assert (brightness() > 128) == (scheme == "light")
        page.click("#theme")
        assert (brightness() > 128) == (scheme == "dark")


@needs_browser
def test_fits_a_phone(browser, paths):
    with opened(browser, paths["waves"], viewport={"width": 360, "height": 640}) as page:
        press(page, "ArrowRight", 3)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        picture, panel = (page.locator(place).bounding_box() for place in ("#picture", "#panel"))
        assert panel["y"] >= picture["y"] + picture["height"] - 1
        for button in page.locator("footer button").all():
            box = button.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert box["y"] + box["height"] <= 640


@needs_browser
@pytest.mark.parametrize("page", ["used_twice", "waves", "walk"], indirect=True)
def test_everything_that_can_be_pressed_has_a_name(page):
    unnamed = """() => [...document.querySelectorAll('button, input, [role=button]')].filter(one =>
      !(one.getAttribute('aria-label') || one.textContent.trim() || one.closest('label'))).length"""
    for key in ("Home", "ArrowRight", "End"):
        press(page, key)
        assert page.evaluate(unnamed) == 0


@needs_browser
@pytest.mark.parametrize("page", ["used_twice", "waves", "walk", "mixed", "types"], indirect=True)
def test_every_step_lights_what_it_is_about(page):
    """In the view that a step leads to, its operation or the group of it is marked."""
    wrong = """() => page.timeline.steps.map((step, i) => {
      page.to(i);
      const mark = {forward: '.now', backward: '.ct-now'}[step.way];
      const lit = mark ? document.querySelectorAll(`#picture :is(g.op, g.group)${mark}`).length : 1;
      const words = at('panel').innerText.match(/undefined|NaN|null|Infinity|object/);
      return lit !== 1 ? `${i}: ${lit} are marked` : words ? `${i}: it says ${words[0]}` : '';
    }).filter(Boolean)"""
    assert page.evaluate(wrong) == []


@needs_browser
@pytest.mark.parametrize("page", ["identity"], indirect=True)
def test_a_function_without_operations_has_a_gradient(page):
    press(page, "End")
    assert heading(page)[1] == "The gradient"
    assert page.locator("#panel .scalar").inner_text() == "1"


@needs_browser
@pytest.mark.parametrize("page", ["mixed"], indirect=True)
def test_what_is_not_finite_is_said(page):
    page.fill("#search", "jnp.log(0 * x)")
    page.locator("#hits button", has_text="log").click()
    assert page.locator("#panel h2").inner_text() == "log"
    page.click("#panel .go button >> nth=0")
    assert "100 not finite" in page.inner_text("#panel")


@needs_browser
@pytest.mark.parametrize("page", ["hostile"], indirect=True)
def test_text_of_the_source_stays_text(page):
    assert page.inner_text("h1").startswith(HOSTILE)
    for _ in range(6):
        press(page, "ArrowRight")
        if "</script><script>" in page.inner_text("#panel"):
            break
    else:
        pytest.fail("the line with </script> is not shown")
    page.fill("#search", "script")
    assert page.evaluate("window.stolen") is None
    assert page.locator("img").count() == 0
