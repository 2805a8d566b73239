"""Splits a program in two, and chooses which values the forward part keeps for the backward part.

Nothing in this folder knows of loops or branches.
"""
