"""Thin commands over arcturus: train-agent, evaluate-agent, benchmark, demo."""
