"""From arrivals to assignments: windows, plans, late sending, recall.

`dispatcher` runs `solver.routing.rolling` on the gateway's clock, `planner` gets plans from it and
from the solver's process, `recaller` takes back what another worker could end sooner. No rule of
its own: what is decided, `solver` decides. Begin with `dispatcher`.
"""
