"""Chromium without a window, and what its pages report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def why_not() -> str | None:
    """Why no browser can be started; None if one can."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return 'no playwright: pip install "funcgrad[browser]"'
    if not any(map(shutil.which, NAMES)):
        return "no Chromium on this machine: apt-get install chromium"
    return None


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser. Playwright keeps an event loop running meanwhile, so keep this short."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        path = next(filter(None, map(shutil.which, NAMES)))
        browser = started.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, **how: Any) -> Iterator[Any]:
    """A page of a file. An error, a line on the console or a request fails."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **how})
    context.set_default_timeout(10_000)
    page, reported = context.new_page(), []
    page.on("console", lambda line: reported.append(f"console: {line.text}"))
    page.on("pageerror", lambda error: reported.append(f"error: {error}"))
    page.on("request", lambda request: reported.append(f"request: {request.url}"))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    own = {f"request: {path.as_uri()}", "request: data:,"}
    assert [line for line in reported if line not in own] == []
