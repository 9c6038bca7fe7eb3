"""One engine: who waits, who holds a slot, and what the next iteration carries.

Decides stages (a prefill, decode rounds, or both in one iteration), from the sequences that wait
and run, the memory that is left, a cost model, and predictions of who ends when.

Invariants: a sequence holds one slot from its prefill to its last token; memory and the token
budget of an iteration are never exceeded; every slot is in exactly one state at any moment; bulk
work alone may stand still with its memory, or lose slot and memory, for online work; no
schedule beats the bounds in `bounds`, and tests hold that against the exact optimum.

Must not know: the fleet, other engines, clocks, which side (live agent or simulator) drives it.
Begin with `batcher`; `policy` is what an iteration policy sees, `policies/` has one a file.
"""
