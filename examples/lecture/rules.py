"""Rules, and what funcgrad says of them, printed without what differs between machines."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import funcgrad
from funcgrad.testing import Report
from lecture import pictures


def rule(op: Any) -> None:
    """Print the rule of an op, with its source and the file of funcgrad that has it.

    >>> import jax
    >>> rule(jax.lax.sub_p)
    <elementwise rule `sub_vjp` of `sub`, in funcgrad/rules/arithmetic.py>
        @defvjp(lax.sub_p, elementwise=True)
        def sub_vjp(ct: Array, x: Array, y: Array, **_: Any) -> Any:
            return ct, -ct
    """
    print(without_places(funcgrad.DEFAULT[op]).replace(", at funcgrad", ", in funcgrad"))


def tell(found: Any, width: int = 110) -> None:
    """Print what funcgrad found, in lines of so many characters."""
    for line in without_places(found).splitlines():
        print(textwrap.fill(line, width, subsequent_indent=" " * 13))


def without_places(text: Any) -> str:
    """A text of funcgrad's that is the same on every machine.

    Files of funcgrad have no folder and no line, cells of a notebook no file; other files are left out.

    >>> without_places("in sqrt_vjp (/home/me/funcgrad/rules/arithmetic.py:95)")
    'in sqrt_vjp (funcgrad/rules/arithmetic.py)'
    >>> without_places("at /home/me/ipykernel_12/345.py:6:32 (distance)")
    'at line 6 of the cell (distance)'
    >>> without_places("the gradient of `net at /home/me/net.py:5` was asked for")
    'the gradient of `net` was asked for'
    """
    text = re.sub(r"[^\s(]*?(funcgrad/\w+/\w+\.py):\d+", r"\1", str(text))
    text = re.sub(r"[^\s(]*?ipykernel_\d+/\d+\.py:(\d+)(:\d+)?", r"line \1 of the cell", text)
    return re.sub(r",? at (/|[A-Z]:)[^`>\n]*?:\d+", "", text)


def checked(report: Report) -> None:
    """Print each check of a report with its result, and why a check did not run.

    >>> import jax
    >>> from funcgrad.testing import check_rule
    >>> checked(check_rule(jax.lax.sin_p, 0.5))  # doctest: +ELLIPSIS
    check                    result
    types                    passed
    value                    passed
    ...
    """
    rows = [
        (check.name, f"not run: {check.detail}" if check.status == "not run" else check.status)
        for check in report
    ]
    pictures.table(rows, "check", "result")
