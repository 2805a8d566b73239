"""The site's configuration. `python docs/build.py` builds it.

The source directory is the repository's root and not `docs/`: so a relative link between a page, a
notebook and a file of the source means the same on GitHub and in the site.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_ext")]

import source_pages  # noqa: E402
from sphinx.domains.python import PyObject  # noqa: E402

import funcgrad  # noqa: E402

project = "funcgrad"
author = "funcgrad developers"
copyright = "funcgrad developers, Apache 2.0"
release = version = funcgrad.__version__

for field in PyObject.doc_field_types:
    if field.name == "variable":
        field.label = "Attributes"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.linkcode",
    "sphinx_copybutton",
    "mathml",
    "source_pages",
    "filled",
    "saved_graphs",
]
root_doc = "docs/index"
include_patterns = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/RESULTS.md",
    "docs/*.md",
    "docs/**/*.md",
    "notebooks/0*.ipynb",
]
exclude_patterns = ["docs/_build", "**/.*", ".*", "build", "dist", "tests", "funcgrad", "examples"]

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 4  # the anchors that GitHub makes
myst_links_external_new_tab = False
suppress_warnings = [
    "myst.xref_missing",  # said of anchors in HTML too; links.py checks all links of the built pages
]

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

nb_execution_mode = "off"  # the tests run the notebooks; the site shows what is saved in them
nb_ipywidgets_js = {}  # its scripts come from another server; a static picture is saved beside a widget
nb_mime_priority_overrides = [("*", "application/vnd.jupyter.widget-view+json", None)]

default_role = "code"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = "funcgrad"
html_static_path = ["_static"]
html_css_files = ["funcgrad.css"]
html_extra_path = ["_extra"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": False,
}
pygments_style = "friendly"


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """The page and line of a name's source, as seen from a page of the API reference."""
    return source_pages.place_of(info["module"], info["fullname"])


def readable_defaults(
    app: Any,
    what: str,
    name: str,
    found: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """A signature whose defaults are Python: Sphinx makes no links of the types beside `<factory>`."""
    return signature and signature.replace("<factory>", "..."), returns


def setup(app: Any) -> None:
    app.connect("autodoc-process-signature", readable_defaults)
