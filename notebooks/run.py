"""Run the notebooks and compare what they show with what is saved in them.

    python notebooks/run.py                     all of them
    python notebooks/run.py 01_scalar           one of them
    python notebooks/run.py --save 01_scalar    and save what it shows now

Text has to be the same, and numbers in it to 1e-5 of their size, so that another machine passes. Of a
page or a drawn graph the words and numbers are compared; of a plot, that there is one. A cell with the
tag ``varies`` shows timings or the like: only the kinds of its outputs are compared. A warning is a
failure. So is an error, except in a cell with the tag ``raises-exception``.

A graph that a cell draws is saved as an image: of a notebook that nobody has run yet, JupyterLab shows
no other picture in HTML. Sliders are not saved, since they work only beside a running kernel; the
picture that they move is. After the last cell each slider is moved to both ends: what it draws then
must not fail.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import math
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).parent
TOLERANCE = 1e-5
"""By how much of its size a number may differ from the saved one."""

SECONDS = 300
"""How long one cell may take, or the start of a kernel."""

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT = ("tags", "jupyter")
"""What of a cell's metadata is saved."""

MOVE_SLIDERS = """\
import sys
if "lecture.pictures" in sys.modules:
    sys.modules["lecture.pictures"].try_sliders()
"""

SLIDER = "application/vnd.jupyter.widget-view+json"
SVG = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
IMAGE = re.compile(r'<img src="data:image/svg\+xml;base64,([^"]*)">')
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def executed(notebook: Any) -> Any:
    """A copy of a notebook with the outputs of a run from top to bottom, in a fresh kernel on the CPU.

    Raises nbclient's CellExecutionError where a cell without the tag ``raises-exception`` raises.
    """
    ran: Any = nbformat.from_dict(notebook)
    ran.cells.append(nbformat.v4.new_code_cell(MOVE_SLIDERS))
    with tempfile.TemporaryDirectory() as empty:  # no kernel and no settings but this environment's
        own = {"JUPYTER_DATA_DIR": empty, "IPYTHONDIR": empty, "JAX_PLATFORMS": "cpu"}
        inline = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        client = NotebookClient(
            ran,
            timeout=SECONDS,
            startup_timeout=SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": str(HERE)}},
            store_widget_state=False,
            coalesce_streams=True,
        )
        client.execute(env=inherited | own | inline)
    ran.cells.pop()
    return ran


def cleaned(notebook: Any) -> Any:
    """A copy of a notebook as it is saved: nothing in it depends on the machine or on the day."""
    clean: Any = nbformat.from_dict(notebook)
    clean.metadata = nbformat.from_dict(METADATA)
    clean.nbformat, clean.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell in clean.cells:
        name = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        seen[name] = seen.get(name, 0) + 1
        cell.id = name if seen[name] == 1 else f"{name}-{seen[name]}"
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in KEPT if key in cell.metadata}
        )
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [_cleaned(out) for out in cell.outputs if SLIDER not in _kinds(out)]
    return clean


def _cleaned(output: Any) -> Any:
    kept: Any = nbformat.from_dict({key: out for key, out in output.items() if key != "transient"})
    if "metadata" in kept:  # what is left is the size of a picture
        kept.metadata = {kind: size for kind, size in kept.metadata.items() if kind in kept.data}
    if "text/html" in kept.get("data", {}):
        kept.data["text/html"] = SVG.sub(_as_image, kept.data["text/html"])
    if kept.output_type == "execute_result":
        kept.execution_count = None
    if kept.output_type == "error":  # the frames name files of this machine
        kept.traceback = [f"{kept.ename}: {kept.evalue}"]
    return kept


def _as_image(drawn: re.Match[str]) -> str:
    encoded = base64.b64encode(drawn[0].encode()).decode()
    return f'<img src="data:image/svg+xml;base64,{encoded}">'


def _as_svg(image: re.Match[str]) -> str:
    return base64.b64decode(image[1]).decode()


def _kinds(output: Any) -> set[str]:
    """What an output is: its formats, or the stream that it was written to."""
    if output.output_type == "stream":
        return {output.name}
    return {"error"} if output.output_type == "error" else set(output.data)


# --- comparing


def differences(saved: Any, new: Any) -> list[str]:
    """How the outputs of a run differ from the saved ones, a line for each cell; none if they agree.

    Both notebooks are cleaned ones, with the same cells.
    """
    found = []
    for number, (before, now) in enumerate(zip(saved.cells, new.cells, strict=True)):
        if now.cell_type != "code":
            continue
        tags = now.metadata.get("tags", [])
        what = _warning(now.outputs) or _difference(before.outputs, now.outputs, "varies" in tags)
        if what:
            first = now.source.strip().partition("\n")[0]
            found.append(f"cell {number}, `{first}`: {what}")
    return found


def _warning(outputs: list[Any]) -> str | None:
    written = [out.text for out in outputs if "stderr" in _kinds(out)]
    return f"warns: {written[0]}" if written else None


def _difference(before: list[Any], now: list[Any], varies: bool) -> str | None:
    kinds = [[sorted(_kinds(out)) for out in outputs] for outputs in (before, now)]
    if kinds[0] != kinds[1]:
        return f"saved are outputs of the kinds {kinds[0]}; now they are {kinds[1]}"
    if not varies:
        for old, new in zip(before, now, strict=True):
            for old_text, new_text in zip(_texts(old), _texts(new), strict=True):
                if not same_text(old_text, new_text):
                    return f"saved is\n{old_text}\nnow it is\n{new_text}"
    return None


def _texts(output: Any) -> list[str]:
    """The texts of an output: of HTML what stands between its tags, of a picture nothing."""
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":
        return [f"{output.ename}: {output.evalue}"]
    pictures = any(kind.startswith("image/") for kind in output.data)
    texts = [] if pictures else [output.data.get("text/plain", "")]
    page = IMAGE.sub(_as_svg, output.data.get("text/html", ""))
    return [*texts, re.sub(r"<[^>]*>", " ", page)]


def same_text(saved: str, new: str) -> bool:
    """Whether two texts have the same words, the same integers, and numbers that agree to `TOLERANCE`.

    >>> same_text("loss  4.000000", "loss 4.000001"), same_text("3 steps", "4 steps")
    (True, False)
    """
    words = [NUMBER.sub("#", text).split() for text in (saved, new)]
    numbers = [NUMBER.findall(text) for text in (saved, new)]
    return words[0] == words[1] and all(map(_same_number, *numbers))


def _same_number(saved: str, new: str) -> bool:
    whole = saved.lstrip("+-").isdigit() and new.lstrip("+-").isdigit()
    x, y = float(saved), float(new)
    return x == y if whole else math.isclose(x, y, rel_tol=TOLERANCE)


# --- the command


def check(path: Path, save: bool) -> list[str]:
    """Run one notebook; save it, or say how it differs from what is saved."""
    saved = cleaned(nbformat.read(path, as_version=4))
    try:
        new = cleaned(executed(saved))
    except CellExecutionError as error:
        return [str(error)]
    if not save:
        return differences(saved, new)
    nbformat.validate(new)
    nbformat.write(new, path)
    return [what for cell in new.cells if (what := _warning(cell.get("outputs", [])))]


def main() -> int:
    """Run the notebooks that are named, or all; the exit status is 1 if any differs."""
    parser = argparse.ArgumentParser(description="Run the notebooks and compare their outputs.")
    parser.add_argument("names", nargs="*", help="01_scalar, ...; all if none is given")
    parser.add_argument("--save", action="store_true", help="save what they show now")
    options = parser.parse_args()
    paths = [HERE / f"{Path(name).stem}.ipynb" for name in options.names]
    failed = False
    for path in paths or sorted(HERE.glob("*.ipynb")):
        started = time.perf_counter()
        found = check(path, options.save)
        failed |= bool(found)
        print(f"{path.stem}: {time.perf_counter() - started:.1f} s", *found, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
