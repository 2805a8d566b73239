"""Build the site: `python docs/build.py [FOLDER]`. A warning, or a link that leads nowhere, is an error.

It needs `pip install -e ".[docs]"` and no network. The pages are in `docs/_build` (or FOLDER):
open `docs/_build/index.html`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

from links import faults  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=DOCS / "_build", help="for the pages"
    )
    folder = parser.parse_args(arguments).folder.resolve()
    command = [sys.executable, "-m", "sphinx", "-E", "-a", "-W", "--keep-going", "-q"]
    command += ["-b", "html", "-c", str(DOCS), str(DOCS.parent), str(folder)]
    status = subprocess.call(command, env={"JAX_PLATFORMS": "cpu", **os.environ})
    found = list(faults(folder))
    print(*found, sep="\n", end="\n" if found else "")
    return status or bool(found)


if __name__ == "__main__":
    sys.exit(main())
