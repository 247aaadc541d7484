"""Runs beside each other: scores over seeds and games, published scores, tables, and one page of all of it."""
