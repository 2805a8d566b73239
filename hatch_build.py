"""The README on the page of a wheel, where no file of the repository lies beside it.

A link to a file of the repository becomes absolute where the project says its address (`Source` in
`[project.urls]`). Without one, of a link the text stays, and of a picture nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

try:
    from hatchling.metadata.plugin.interface import MetadataHookInterface
except ImportError:  # the tests of `standalone` need no build backend
    MetadataHookInterface = object

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)")


def standalone(text: str, source: str | None) -> str:
    """The README with links that hold anywhere.

    Args:
      text: the README.
      source: the address of the repository's files, ``https://host/owner/name/blob/main``; None where
        none is known.
    """

    def replaced(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        if source is not None:
            return f"{mark}[{words}]({source.rstrip('/')}/{target}{'?raw=true' if mark else ''})"
        return "" if mark else words

    return LINK.sub(replaced, text)


class Readme(MetadataHookInterface):
    """Puts the README into the metadata of a wheel and of an sdist."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        source = metadata.get("urls", {}).get("Source")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": standalone(text, source and f"{source}/blob/main"),
        }
