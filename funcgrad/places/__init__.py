"""Places in a program: named by selectors, listed, tapped and edited.

A function is traced once. `program.py` lists the places of the trace, at any depth; `selectors.py` and
`conditions.py` say which are meant; `asked.py` finds there what a user asks for, and `editing.py` runs
the trace again with that.
"""

from funcgrad.places.conditions import at
from funcgrad.places.selectors import Edit, Selector
from funcgrad.places.taps import Tapped

__all__ = ["Edit", "Selector", "Tapped", "at"]
