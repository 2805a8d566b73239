"""``python -m funcgrad.inspect``."""

from funcgrad.inspect.command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
