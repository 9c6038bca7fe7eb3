"""Engines that keep their own queue or loop: what can be decided for them from outside.

`follow` decides for an engine that asks at every iteration but owns slots and memory (vLLM's
scheduler plug-in); `release` decides when requests held before an engine go in, and which (the
sidecar), from `held`, those requests, `flight`, a model of those inside of which only tokens are
seen, and `slots`, how many the engine really runs at once.

Invariants: an engine is never given more than its slots; policies are the same objects that the
batcher runs. Must not know: HTTP, the engine's own interface.
"""
