"""Tests of comparison and baselines."""
