"""Ours against every rival, on a fixed list of situations: traffic, runs and verdicts."""
