"""Runs the code of a page as a script, block by block, and says where it prints what is not shown.

A page shows code in blocks marked ``python``. A block marked ``text`` that follows one is what that code
prints. Words must be those that are printed; line breaks may differ. A number with a decimal point may
differ by two units of its last digit, or by 1e-4 of itself. ``...`` stands for any words up to the next
one shown. Of a file only the name counts, and its line only where it is the page itself.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

DOCS = Path(__file__).parents[2] / "docs"
FOLDERS = re.compile(r"(?:/[\w.+-]+)+/(?=[\w-]+\.py\b)")
LINE = re.compile(r"\b([\w-]+)\.py:\d+(?::\d+)?")
NUMBER = re.compile(r"-?\d+\.\d*(?:e[+-]?\d+)?|-?\d+(?:e[+-]?\d+)?")


@dataclass
class Block:
    """A piece of a page's code, and what the page says that it prints."""

    code: str
    shown: str | None = None
    printed: str = ""


def blocks_of(page: Path, language: str = "python") -> list[Block]:
    """The blocks of a language on a page, each with the block of ``text`` that follows it."""
    blocks: list[Block] = []
    previous = ""
    for mark, content in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.S | re.M):
        if mark == language:
            blocks.append(Block(content))
        elif mark == "text" and previous == language:
            blocks[-1].shown = content
        previous = mark
    return blocks


def run(page: Path, folder: Path, language: str = "python") -> list[Block]:
    """Run the blocks of a page in one namespace, as a script in `folder`, and keep what each prints."""
    blocks = blocks_of(page, language)
    script = folder / f"{page.stem}.py"  # names and lines come from the source
    script.write_text("\n".join(block.code for block in blocks))
    module = ModuleType("__main__")
    module.__file__ = str(script)
    line = 0
    for block in blocks:
        code = compile("\n" * line + block.code, str(script), "exec", dont_inherit=True)
        printing = contextlib.redirect_stdout(io.StringIO())
        with printing as out, _as_main(module), jax.enable_x64(False):
            exec(code, vars(module))
        block.printed = FOLDERS.sub("", out.getvalue())
        line += block.code.count("\n") + 1
    return blocks


@contextlib.contextmanager
def _as_main(module: ModuleType) -> Iterator[None]:
    """Let the script be the main module, in which its functions are found by name."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        yield
    finally:
        sys.modules["__main__"] = before


def check(page: Path, folder: Path, language: str = "python") -> None:
    """Run the blocks of a page, and fail where one prints something else than is shown."""
    for block in run(page, folder, language):
        wrong = disagreement(page.stem, block.shown or "", block.printed)
        assert wrong is None, f"{page.name}: {wrong}\n\n{block.code}\nprints\n\n{block.printed}"


def disagreement(page: str, shown: str, printed: str) -> str | None:
    """The first words that a page shows otherwise than they are printed; None where all agree."""

    def words(text: str) -> list[str]:
        return LINE.sub(lambda m: m[0] if m[1] == page else f"{m[1]}.py", text).split()

    wanted, found = words(shown), words(printed)
    at = 0
    while wanted:
        if wanted[0] == "...":
            rest = wanted[1:]
            if not rest:
                return None
            while at < len(found) and not _same(rest[0], found[at]):
                at += 1
            wanted = rest
        if at == len(found):
            return f"shown {' '.join(wanted[:8])!r}, and nothing more is printed"
        if not _same(wanted[0], found[at]):
            return f"shown {' '.join(wanted[:8])!r}, printed {' '.join(found[at : at + 8])!r}"
        wanted, at = wanted[1:], at + 1
    return None if at == len(found) else f"printed and not shown: {' '.join(found[at : at + 8])!r}"


def _same(shown: str, printed: str) -> bool:
    if NUMBER.split(shown) != NUMBER.split(printed):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(a == b or _close(a, b) for a, b in pairs)


def _close(shown: str, printed: str) -> bool:
    if "." not in shown and "e" not in shown:
        return False  # a count
    mantissa, _, exponent = shown.partition("e")
    digits = len(mantissa.partition(".")[2])
    allowed = max(2.001 * 10.0 ** (int(exponent or 0) - digits), 1e-4 * abs(float(shown)))
    return abs(float(shown) - float(printed)) <= allowed


def check_to_the_letter(page: Path, script: Path, capsys: Any) -> None:
    """Run all code of a page as one file, since names come from the source: it prints what is shown."""
    text = page.read_text()
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", text, re.S)))
    runpy.run_path(str(script))
    shown = "".join(re.findall(r"```text\n(.*?)```", text, re.S))
    assert capsys.readouterr().out.splitlines() == shown.splitlines()
