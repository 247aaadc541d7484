"""Policies that come along: run folders with nothing but what plays; no code."""
