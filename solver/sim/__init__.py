"""Virtual time: a fleet that runs the live policies over cost models instead of engines.

Decides nothing: it brings requests to a dispatcher as they arrive, runs each worker's batcher, adds
up the time that its cost model says, and records every stage, so that each figure of `report` can
be checked from `schedule` alone.

Invariants: one clock, moved only forward, by events; the same objects as live (`batching.Batcher`,
`routing.dispatchers`); policies learn of a length what `forecast` tells them, never the truth
unless asked for; the same seed gives the same run, and no run beats its bound.

Must not know: HTTP, files, engines. Begin with `fleet`, then `worker`; `workload` draws requests
that look like public data sets.
"""
