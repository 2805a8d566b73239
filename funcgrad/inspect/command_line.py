"""``python -m funcgrad.inspect``: tables, pictures and pages of a model, without writing code."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from funcgrad import errors
from funcgrad.default import DEFAULT
from funcgrad.inspect import named
from funcgrad.inspect.cost import cost
from funcgrad.inspect.coverage import coverage
from funcgrad.inspect.flows import flow
from funcgrad.inspect.graphs import graph
from funcgrad.inspect.named import NotFound
from funcgrad.inspect.nonfinite import nonfinite
from funcgrad.inspect.places import places
from funcgrad.inspect.residuals import residuals

FINE, FOUND, FAILED = 0, 1, 2
"""What the command returns: nothing is amiss, something is, or it could not look."""

Write = Callable[[Any, Path], None]
"""Writes what was found to a file."""

Look = Callable[..., Any]
"""From the function and its arguments, with the command's options by name, to what was found."""


@dataclass(frozen=True)
class Command:
    """One thing that can be asked of a function.

    Attributes:
      look: looks, and returns something that prints.
      help: what it does, in a line.
      write: by suffix, how what was found is written; text is always possible.
      amiss: whether what was found is to be reported by the exit code.
      options: options of its own, with the arguments of ``add_argument``.
      takes_rules: whether it depends on rules.
    """

    look: Look
    help: str
    write: Mapping[str, Write] = field(default_factory=dict)
    amiss: Callable[[Any], bool] = lambda found: False
    options: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    takes_rules: bool = True


def _json(found: Any, path: Path) -> None:
    path.write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")


def _text(found: Any, path: Path) -> None:
    path.write_text(f"{found}\n", encoding="utf-8")


def _written(method: str) -> Write:
    """Writes the text that a method of what was found returns."""
    return lambda found, path: _text(getattr(found, method)(), path)


def _csv(found: Any, path: Path) -> None:
    found.to_pandas().to_csv(path, index=False)


def _rows(found: Any, path: Path) -> None:
    """Writes rows that have not all the same names."""
    rows = found.rows()
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _figure(found: Any, path: Path) -> None:
    found.to_figure(path)


PICTURES = dict.fromkeys((".png", ".svg", ".pdf"), _figure)


def number_of_steps(word: str) -> int | str:
    """A number, or ``run``; named in the message where it is neither."""
    return word if word == "run" else int(word)


HAS_AUX = {"action": "store_true", "help": "the function returns (output, auxiliary data)"}

XLA = {
    "action": argparse.BooleanOptionalAction,
    "help": "ask XLA for its own figures, or do not: quicker. Unasked it is if there are at most 2,000 "
    "operations",
}

COMMANDS: dict[str, Command] = {
    "graph": Command(
        graph,
        "the values and operations, drawn or as a page to step through",
        write={
            ".html": _written("to_html"),
            ".svg": _written("to_svg"),
            ".json": _written("to_json"),
            ".dot": _written("to_dot"),
        },
        options={
            "--no-values": {
                "dest": "values",
                "action": "store_const",
                "const": False,
                "help": "structure alone: do not run it",
            },
        },
    ),
    "residuals": Command(
        residuals,
        "the arrays that are kept for the way back, who asks for them, and what to checkpoint",
        write={".csv": _csv, **PICTURES},
        options={
            "--xla": {"dest": "compiled", **XLA},
            "--no-suggestions": {
                "dest": "suggest",
                "action": "store_false",
                "help": "do not try checkpoints: quicker",
            },
        },
    ),
    "flow": Command(
        flow,
        "by layer, how large values, cotangents and gradients are, and what is wrong with them",
        write={".csv": _rows, **PICTURES},
        amiss=lambda found: bool(found.flags()),
    ),
    "nonfinite": Command(
        nonfinite,
        "where a NaN or an infinity begins, in the function or in its gradient",
        amiss=bool,
        options={"--has-aux": HAS_AUX},
    ),
    "places": Command(
        places,
        "the name scopes, loops and operations that funcgrad.at can select",
        options={
            "--no-ops": {"dest": "ops", "action": "store_false", "help": "scopes and loops alone"}
        },
        takes_rules=False,
    ),
    "coverage": Command(
        coverage,
        "which rule differentiates which op",
        amiss=lambda found: bool(found.of_kind("missing")),
        options={
            "--strict": {"action": "store_true", "help": "do not count on third parties' rules"}
        },
    ),
    "cost": Command(
        cost,
        "operations and bytes of the function and of its gradient, by op and by name scope",
        write={".json": _json},
        options={
            "--has-aux": HAS_AUX,
            "--steps": {
                "type": number_of_steps,
                "metavar": "N",
                "help": "how many steps each while loop takes; 'run' to run it and count",
            },
            "--against-jax": {"action": "store_true", "help": "beside jax.grad, rule by rule"},
            "--xla": XLA,
        },
    ),
}
"""The sub-commands, by name."""

DESCRIPTION = """\
Look into a JAX function and its gradient without writing code.

The function is named as module:function, or as path/to/file.py:function. Its arguments are named
likewise by --args: a tuple, or a function that returns one. Without a module, --args and --rules are
looked for beside the function. Arrays may be jax.ShapeDtypeStruct, except for flow and nonfinite.
"""

EXAMPLES = """\
examples:
  python -m funcgrad.inspect graph model.py:loss --args example --output loss.html
  python -m funcgrad.inspect residuals model.py:loss --args example --output memory.png
  python -m funcgrad.inspect cost model.py:loss --args example --against-jax
  python -m funcgrad.inspect nonfinite package.model:loss --args package.data:batch
  python -m funcgrad.inspect coverage model.py:loss --args example --rules my_rules --output coverage.txt

exit codes:
  0  nothing is amiss
  1  flow has a flag, nonfinite found a value that is not finite, or coverage an op without a rule
  2  the function, its arguments or the rules could not be found, or the function could not be
     differentiated
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command, and return the exit code."""
    asked = vars(_parser().parse_args(words))
    command = COMMANDS[asked.pop("command")]
    output, names = asked.pop("output"), [asked.pop(key) for key in ("function", "args", "rules")]
    try:
        write = writer(command, output)
        fun, args, own = _loaded(command, *names)
    except NotFound as problem:
        return _failed(str(problem))
    try:
        found = command.look(fun, *args, **own, **asked)
    except errors.FuncgradError as problem:
        return _failed(str(problem))
    except Exception:
        return _failed(f"{names[0]} raised:\n{traceback.format_exc().rstrip()}")
    try:
        write(found)
    except ImportError as problem:
        return _failed(str(problem))
    return FOUND if command.amiss(found) else FINE


def _failed(words: str) -> int:
    print(f"python -m funcgrad.inspect: {words}", file=sys.stderr)
    return FAILED


def _loaded(
    command: Command, function: str, args: str | None, rules: str | None
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The function, its arguments, and the rules by name where the command depends on some."""
    fun, module = named.function(function)
    example = named.arguments(args, module, fun)
    if not command.takes_rules:
        return fun, example, {}
    return fun, example, {"rules": DEFAULT if rules is None else named.rules(rules, module)}


def writer(command: Command, output: str | None) -> Callable[[Any], None]:
    """How what was found is shown: printed, or written to a file by its suffix."""
    if output is None:
        return print
    path = Path(output)
    if not path.parent.is_dir():
        raise NotFound(f"--output is {output!r}, but there is no folder {path.parent}.")
    write = command.write.get(path.suffix)
    if write is None and path.suffix not in ("", ".txt"):
        known = ", ".join([*command.write, ".txt"])
        raise NotFound(f"--output is {output!r}; it can end with {known}, not with {path.suffix}.")
    return lambda found: (write or _text)(found, path)


def _parser() -> argparse.ArgumentParser:
    shape: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(
        "python -m funcgrad.inspect", description=DESCRIPTION, epilog=EXAMPLES, **shape
    )
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.help, description=f"{command.help}.", **shape)
        own.add_argument("function", help="module:function or path/to/file.py:function")
        own.add_argument("--args", help="a tuple of arguments, or a function that returns one")
        if command.takes_rules:
            own.add_argument("--rules", help="rules, such as funcgrad.DEFAULT.override({...})")
        else:
            own.set_defaults(rules=None)
        suffixes = ", ".join([*command.write, ".txt"])
        own.add_argument("-o", "--output", metavar="FILE", help=f"write to a file ({suffixes})")
        for option, settings in command.options.items():
            own.add_argument(option, **settings)
    return parser
