"""Experience: what is stored (ring, rollout), how it is drawn (learner, prioritised), and the records that learning reads."""
