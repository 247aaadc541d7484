"""Experiment trackers: Weights & Biases, MLflow, Trackio.  Each is a process that follows a run's TensorBoard files (follow.py)."""
