"""A run on disk: its settings, folder, checkpoints, metrics and pictures."""
