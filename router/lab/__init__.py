"""Offline work: simulations, replays, tables."""
