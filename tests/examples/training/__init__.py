"""Tests of the training programs and of what they share."""
