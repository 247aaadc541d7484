"""Experience replay: what is stored (ring), how it is drawn (samplers), and the records that learning reads."""
