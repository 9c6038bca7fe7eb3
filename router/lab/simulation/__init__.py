"""Traces in, figures of finished runs out: one run, many at once, or the smallest fleet."""
