"""Scores and what explains them: evaluation rollouts, statistics, films, and the instruments of the DQN papers."""
