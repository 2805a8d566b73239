"""Python objects by name: ``module:function``, or ``path/to/file.py:function``."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from funcgrad.registry import Rules


class NotFound(Exception):
    """What was named is not there, or is not of the kind that is wanted."""


def split(name: str, option: str, module: str | None = None) -> tuple[str, str]:
    """The module and the object that a name means; without a colon the object is in `module`."""
    before, colon, after = name.rpartition(":")
    if not colon and module is not None:
        return module, name
    if not before or not after:
        raise NotFound(
            f"{option} is {name!r}. Write it as module:function or path/to/file.py:function."
        )
    return before, after


def load(module: str, name: str) -> Any:
    """The object of this name, dots and all, in a module or in a file."""
    found: Any = _file(module) if module.endswith(".py") else _module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, dir(found), 3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise NotFound(f"{module} was found, but has no {name!r}.{hint}")
        found = getattr(found, part)
    return found


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise NotFound(_raised(name)) from error
        raise NotFound(
            f"There is no module {name!r} in {Path.cwd()} or among the installed packages. Run the "
            "command in the module's folder, or name its file: path/to/file.py:function."
        ) from error
    except Exception as error:
        raise NotFound(_raised(name)) from error


@functools.cache
def _file(name: str) -> ModuleType:
    """A module from a file, run once; it may import its neighbours."""
    path = Path(name).resolve()
    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise NotFound(_raised(name)) from error
    return module


def _raised(name: str) -> str:
    return f"{name} could not be imported:\n{traceback.format_exc(limit=-3).rstrip()}"


# --- what is wanted


def function(name: str) -> tuple[Callable[..., Any], str]:
    """The function of this name, and the module that it was looked for in."""
    module, attribute = split(name, "The function")
    found = load(module, attribute)
    if not callable(found):
        raise NotFound(f"{name} is a {type(found).__name__}, not a function.")
    return found, module


def arguments(name: str | None, module: str, fun: Callable[..., Any]) -> tuple[Any, ...]:
    """The example arguments of this name, which the function takes."""
    example: Any = ()
    if name is not None:
        example = _made(load(*split(name, "--args", module)), name)
        if not isinstance(example, tuple):
            raise NotFound(
                f"--args {name} gives a {type(example).__name__}. Give a tuple of the function's "
                "arguments, or a function that returns one; of one argument, (x,)."
            )
    try:
        inspect.signature(fun).bind(*example)
    except TypeError as error:
        given = f"--args {name} gives {len(example)}" if name else "no --args was given"
        raise NotFound(
            f"{_named(fun)} takes {inspect.signature(fun)}, but {given}: {error}."
        ) from error
    except ValueError:  # a function without a signature
        pass
    return example


def _made(found: Any, name: str) -> Any:
    """An object, or what a function without arguments returns."""
    if not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        raise NotFound(f"{name}() raised:\n{traceback.format_exc(limit=-3).rstrip()}") from error


def _named(fun: Callable[..., Any]) -> str:
    return getattr(fun, "__name__", type(fun).__name__)


def rules(name: str, module: str) -> Rules:
    """The rules of this name."""
    found = load(*split(name, "--rules", module))
    found = found if isinstance(found, Rules) else _made(found, name)
    if not isinstance(found, Rules):
        raise NotFound(
            f"--rules {name} gives a {type(found).__name__}, not rules such as "
            "funcgrad.DEFAULT.override({...})."
        )
    return found
