"""How `benchmark` measures: windows that take turns, the machine, the page made of it, the arithmetic of a network."""
