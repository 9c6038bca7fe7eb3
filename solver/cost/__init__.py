"""How long an engine's iterations take: every time formula, once, and where its terms come from.

Decides the terms of a `CostModel` (seconds of prefills, decode rounds and mixed iterations, linear
in tokens, sequences and cached tokens): from published measurements (`profiles`), from a measured
engine (`calibration`), or from the iterations of a running one as they end (`online`).

Invariants: all times are seconds of the engine in question, an engine twice as fast has terms half
as large; terms are finite and never negative, and no iteration is free, whatever was observed.

Must not know: queues, slots, policies, workers. Begin with `model`.
"""
