"""Mathematics as MathML, which browsers draw themselves: no script, no font and no other server.

docutils translates TeX. What it cannot translate is a warning, so the build fails there.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

LARGE = re.compile(r"(\\[bB]igg?)(?![a-zA-Z])")
r"""``\Big(``, which docutils knows as ``\Bigl(``."""

BELOW_ACCENT = re.compile(
    r"<munderover>\s*(?P<base><m[ino][^>]*>[^<]*</m[ino]>|<mrow>.*?</mrow>)\s*"
    r"(?P<index>(?:(?!<munderover>).)*?)\s*"
    r"(?P<accent><mo[^>]*>[ˉˆ˙\u02dc¨→¯^~]</mo>)\s*</munderover>",
    re.S,
)
"""A letter with an accent and an index, which docutils puts below the letter and not beside it."""


def translated(node: nodes.Element, as_block: bool) -> str:
    """The node's TeX as a `<math>` element; TeX that cannot be translated is shown as it is."""
    tex = LARGE.sub(r"\1l", node.astext())
    try:
        mathml = tex2mathml(tex, as_block=as_block)
        accented = r'<msub><mover accent="true">\g<base>\g<accent></mover>\g<index></msub>'
        return BELOW_ACCENT.sub(accented, mathml)
    except MathError as error:
        logger.warning("mathematics that MathML cannot show: %s in %r", error, tex, location=node)
        return f"<code>{nodes.Text(tex)}</code>"


def visit_inline(self: Any, node: nodes.Element) -> None:
    self.body.append(translated(node, as_block=False))
    raise nodes.SkipNode


def visit_block(self: Any, node: nodes.Element) -> None:
    self.body.append(f'<div class="math">{translated(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
