"""Commands for those who work on arcturus itself, from a clone: python -m tools.NAME."""
