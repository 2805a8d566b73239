"""Where a built site leads: no link leads nowhere, and no page loads from another server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}


@dataclass
class Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    anchors: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def of(cls, file: Path) -> Page:
        page = cls()
        page.feed(file.read_text())
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        for name in ("src", "href"):
            if (tag, name) in LOADED and name in given and given.get("rel") != "canonical":
                self.loaded.add(given[name])


def faults(folder: Path) -> Iterator[str]:
    """A line for each link of the site in `folder` that leads nowhere, and each load from elsewhere."""
    files = sorted(file for file in folder.rglob("*.html") if "_static" not in file.parts)
    pages = {file: Page.of(file) for file in files}
    for file, page in pages.items():
        where = file.relative_to(folder)
        for address in sorted(page.links | page.loaded):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.loaded and parts.scheme != "data":
                    yield f"{where} loads {address} from another server"
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.is_file():
                yield f"{where} links to {address}, and there is no such file"
            elif parts.fragment and target in pages:
                anchors = pages[target].anchors
                if parts.fragment not in anchors and unquote(parts.fragment) not in anchors:
                    yield f"{where} links to {address}, and there is no such anchor"
