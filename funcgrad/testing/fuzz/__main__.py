"""``python -m funcgrad.testing.fuzz``."""

from funcgrad.testing.fuzz.many import main

if __name__ == "__main__":
    raise SystemExit(main())
