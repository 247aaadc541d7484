"""What `benchmark` measures; each file is one kind of thing."""
