"""Tests of what the notebooks share."""
