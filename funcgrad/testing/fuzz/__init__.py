"""Random programs against jax.grad and finite differences: ``python -m funcgrad.testing.fuzz``.

A program is data (``programs.py``), drawn (``generator.py``, ``expressions.py``) out of words
(``vocabulary.py``) to a taste (``tastes.py``). It is checked alone (``one.py``) or with thousands
(``many.py``), and made smaller and written as a file if it fails.
"""
