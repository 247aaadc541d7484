"""Sweeps: agents x environments x settings x seeds, each cell an ordinary run folder made by an ordinary train-agent process.

file.py reads a sweep and lists its cells; cell.py brings one forward, in a process of its own, wherever that is; engine.py places cells
on machines (Ray); progress.py says from the folders alone how far they are.
"""
