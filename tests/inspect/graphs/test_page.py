"""The page, read as a file and driven in Chromium."""

from __future__ import annotations

import re

import pytest

from funcgrad.inspect.graphs.page import page_of
from tests.inspect.graphs.browser import chromium, opened, why_not
from tests.inspect.graphs.pages import small, views

HOSTILE = "</script><script>window.stolen=1</script><img src=x onerror='window.stolen=1'>"


def test_the_page_names_no_address():
    text = page_of(small(), views())
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)|url\(|@import|https?://""", text)


def test_no_text_of_the_user_is_part_of_the_page():
    text = page_of(small(HOSTILE, HOSTILE), views(HOSTILE))
    assert "window.stolen" not in text.replace("&lt;script&gt;window.stolen", "").replace(
        "onerror=&#x27;window.stolen", ""
    )
    assert text.count("<script") == 2


def test_the_same_graph_makes_the_same_page():
    assert page_of(small(), views()) == page_of(small(), views())


# --- in a browser ---------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    made = tmp_path_factory.mktemp("page") / "small.html"
    made.write_text(page_of(small(), views()), encoding="utf-8")
    return made


@pytest.fixture
def page(browser, path):
    with opened(browser, path) as made:
        yield made


def classes(page, tensor):
    return set(page.get_attribute(f"#picture g.tensor[data-tensor='{tensor}']", "class").split())


def heading(page):
    return page.inner_text("#panel h2"), page.inner_text("#panel .pill")


@needs_browser
def test_steps_forward_then_backward(page):
    seen = [heading(page)]
    for _ in range(8):
        page.keyboard.press("ArrowRight")
        seen.append(heading(page))
    assert seen == [
        ("f", "Start"),
        ("square", "Forward 1 of 3"), ("sin", "Forward 2 of 3"), ("add", "Forward 3 of 3"),
        ("f", "The walk back begins"),
        ("add", "Backward 1 of 3"), ("sin", "Backward 2 of 3"), ("square", "Backward 3 of 3"),
        ("f", "The gradient"),
    ]  # fmt: skip
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#count") == "8 / 8"
    page.keyboard.press("ArrowLeft")
    assert heading(page) == ("square", "Backward 3 of 3")


@needs_browser
def test_values_fill_in_as_the_run_reaches_them(page):
    assert "unknown" in classes(page, 1)
    page.keyboard.press("ArrowRight")
    assert "unknown" not in classes(page, 1)
    assert {"now"} <= classes(page, 1)
    assert "unknown" in classes(page, 3)
    page.keyboard.press("End")
    assert not {"unknown", "ct-unknown", "now"} & set().union(*(classes(page, i) for i in range(4)))


@needs_browser
def test_a_sum_is_added_up(page):
    """ct_x = cos 3 + 2 · 3: first what sin gives, then what square adds."""
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    told = page.inner_text("#panel .sum")
    assert "\u22120.99" in told
    assert "1 more to come" in told
    page.keyboard.press("ArrowRight")
    terms = page.locator("#panel .sum .term").all_inner_texts()
    assert [" ".join(term.split()) for term in terms] == [
        "from sin \u22120.99", "+ from square 6", "= ct_x, whole 5.01",
    ]  # fmt: skip


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
    page.keyboard.press("ArrowRight")
    assert heading(page)[1] == "Backward 2 of 3"
    page.keyboard.press("Home")
    assert heading(page)[1] == "Start"


@needs_browser
def test_plays_by_space_and_stops_at_the_end(page):
    page.click("#last")
    page.keyboard.press("ArrowLeft")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press(" ")
    assert page.get_attribute("#play", "aria-pressed") == "true"
    page.wait_for_selector("#play[aria-pressed=false]", timeout=5000)
    assert heading(page)[1] == "The gradient"


@needs_browser
def test_the_view_follows_the_step(page):
    current = "#breadcrumbs [aria-current]"
    page.keyboard.press("ArrowRight")
    assert page.inner_text(current) == "f"
    page.keyboard.press("ArrowRight")
    assert page.inner_text(current) == "waves"
    assert page.locator("#picture g.op[data-op='1'].now").count() == 1
    page.click("#breadcrumbs button")
    assert page.inner_text(current) == "f"
    assert page.locator("#picture g.group[data-view='1'].now").count() == 1


@needs_browser
def test_a_group_can_be_one_step(page):
    page.uncheck("#into")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert heading(page) == ("waves", "Forward through a group")
    assert page.inner_text("#breadcrumbs") == "f"
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert heading(page) == ("waves", "Backward through a group")
    page.keyboard.press("Shift+ArrowLeft")
    assert heading(page) == ("add", "Backward 1 of 3")


@needs_browser
def test_search(page):
    page.keyboard.press("/")
    page.keyboard.type("sin")
    assert page.inner_text("#hit-count") == "1 hit"
    assert page.locator("#picture g.group.hit").count() == 1
    page.keyboard.press("Enter")
    assert page.inner_text("#breadcrumbs [aria-current]") == "waves"
    assert heading(page) == ("sin", "Operation")
    for text, hits in [
        ("waves", 1),
        ("y = x**2", 1),
        ("model.py", 3),
        ("argument", 1),
        ("nowhere", 0),
    ]:
        page.fill("#search", text)
        assert page.inner_text("#hit-count") == (f"{hits} hit" if hits == 1 else f"{hits} hits")


@needs_browser
def test_a_click_tells_the_line(page):
    page.click("#picture g.op[data-op='0']")
    assert "model.py:1 (f)" in page.inner_text("#panel")
    assert "y = x**2" in page.inner_text("#panel pre >> nth=0")
    page.click("#panel .go button >> nth=1")
    assert heading(page) == ("square", "Backward 3 of 3")
    page.click("#picture g.tensor[data-tensor='0']")
    assert heading(page)[0] == "x"
    page.keyboard.press("Escape")
    assert heading(page) == ("square", "Backward 3 of 3")


@needs_browser
def test_a_thing_is_chosen_by_keyboard(page):
    page.focus("#picture g.op[data-op='2']")
    page.keyboard.press("Enter")
    assert heading(page) == ("add", "Operation")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(browser, path, scheme):
    def brightness():
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    with opened(browser, path, color_scheme=scheme) as page:
        assert (brightness() > 128) == (scheme == "light")
        page.click("#theme")
        assert (brightness() > 128) == (scheme == "dark")


@needs_browser
def test_fits_a_phone(browser, path):
    with opened(browser, path, viewport={"width": 360, "height": 640}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        picture, panel = (page.locator(place).bounding_box() for place in ("#picture", "#panel"))
        assert panel["y"] >= picture["y"] + picture["height"] - 1
        for button in page.locator("footer button").all():
            box = button.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360
            assert box["y"] + box["height"] <= 640


@needs_browser
def test_everything_that_can_be_pressed_has_a_name(page):
    page.keyboard.press("End")
    unnamed = """[...document.querySelectorAll('button, input, [role=button]')].filter(one =>
      !(one.getAttribute('aria-label') || one.textContent.trim() || one.closest('label'))).length"""
    assert page.evaluate(unnamed) == 0


@needs_browser
def test_text_of_the_source_stays_text(browser, tmp_path):
    path = tmp_path / "hostile.html"
    path.write_text(page_of(small(HOSTILE, HOSTILE), views(HOSTILE)), encoding="utf-8")
    with opened(browser, path) as page:
        assert page.inner_text("h1") == HOSTILE
        page.keyboard.press("ArrowRight")
        assert HOSTILE in page.inner_text("#panel")
        page.fill("#search", "script")
        assert page.evaluate("window.stolen") is None
        assert page.locator("img").count() == 0
