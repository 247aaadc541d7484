"""Thin commands over arcturus: train-agent, evaluate-agent, export-agent, compare-runs."""
