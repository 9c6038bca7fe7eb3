"""Packs n requests onto m workers so that the last is done soonest (R||C_max, side constraints).

Decides an assignment, from a `Problem`: seconds of each request on each worker, what workers still
have to do, memory, eligibility, weights and due times. Nothing here knows prompts, tokens a second,
workers' cost models or HTTP.

Invariants: a bound comes first, then a heuristic, then whatever the time left allows (relaxation,
search, enumeration, MILP); there is always an incumbent, later steps may only improve on it, and
`check` recomputes every plan from the data before anybody uses it. Same input, same plan.

Begin with `problem` and `plan` (what goes in and comes out), then `pipeline`. Pyomo and HiGHS are
known to `milp` only.
"""
