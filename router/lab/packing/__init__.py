"""Packing problems from files or by seed, and what else could plan them."""
