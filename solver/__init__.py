"""Decides; never acts. No clock, no I/O, no event loop and no randomness of its own.

Time comes in as ``now`` in seconds, randomness as ``random.Random``, and results go out as data, so
the live gateway, the live agent and the simulator run the same objects. The rooms, bottom up; each
sees those below it, none beside it, and import-linter holds that:

- `packing`: one packing problem, a plan for it, and how far that is from a proven bound;
- `cost`: how long an engine's iterations take; `lengths`: how many tokens answers will have;
- `batching`: one engine: who waits, who holds a slot, when decoding stops for a prefill;
- `routing`: the fleet: which request goes to which worker, and when;
- `sim`: all of the above in virtual time.

Begin with `routing.assign` for the gateway's side, with `batching.batcher` for the agent's. The
glossary and the mathematics are in this folder's README.
"""
