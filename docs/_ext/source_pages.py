"""Files of the source as pages: what a link to `examples/train_digits.py` opens in the site.

On GitHub the same link opens the file there. Each file that a page or the API reference links to has a
page; `source/funcgrad/tape.html#line-12` is a line of one.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funcgrad import errors

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]

linked: set[str] = set()
"""The files, relative to the root, that a link was made to in this build."""


def page_of(path: str | Path) -> str:
    """The page's name of a file, which is then made."""
    name = Path(path).as_posix()
    linked.add(name)
    return f"source/{name}"


def url(path: str | Path, line: int | None, docname: str) -> str:
    """The address of a file, or of a line of one, from the page `docname`."""
    anchor = "" if line is None else f"#line-{line}"
    return os.path.relpath(page_of(path), Path(docname).parent) + ".html" + anchor


def place_of(module: str, name: str) -> str | None:
    """Where a public name is defined, as an address from a page of the API reference."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    found = inspect.unwrap(getattr(found, "fget", None) or found)
    if inspect.isclass(found) and issubclass(found, (errors.FuncgradError, Warning)):
        return _place_of_error(found)
    try:
        path, (_, line) = Path(inspect.getsourcefile(found) or ""), inspect.getsourcelines(found)
    except (OSError, TypeError):
        return None
    if ROOT not in path.parents:
        return None
    return url(path.relative_to(ROOT), line, "docs/reference/page")


def _place_of_error(kind: type) -> str | None:
    """The same of an error, which stands in a file below the module that it names."""
    for path in sorted(Path(errors.__file__).parent.glob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if line.startswith(f"class {kind.__name__}("):
                return url(path.relative_to(ROOT), number, "docs/reference/page")
    return None


def lead_to_pages(app: Sphinx, doctree: nodes.document) -> None:
    """Make links to files of the source links to their pages, and not downloads."""
    from docutils import nodes
    from sphinx import addnodes

    docname = app.env.docname
    for node in list(doctree.findall(addnodes.download_reference)):
        _, file = app.env.relfn2path(node["reftarget"], docname)
        path = Path(file).resolve()
        if path.is_dir():
            path = path / "README.md"
        if path.suffix in {".py", ".toml", ""} and path.is_file():
            target = url(path.relative_to(ROOT), None, docname)
            reference = nodes.reference("", "", *node.children, refuri=target, internal=True)
            node.replace_self(reference)


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The page of each linked file."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_for_filename

    for name in sorted(linked):
        formatter = HtmlFormatter(linenos="inline", anchorlinenos=True, lineanchors="line")
        code = highlight((ROOT / name).read_text(), get_lexer_for_filename(name), formatter)
        body = f"<h1>{name}</h1>\n{code}"
        yield f"source/{name}", {"title": name, "body": body}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", lead_to_pages, priority=100)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
