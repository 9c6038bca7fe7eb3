"""What engines tell of their prefix caches, as it comes: facts where there were guesses.

`sources` finds an engine's publishers, `frames` reads their messages within bounds, `subscriber`
has the clock, `turns` says whose replay goes on, `stream` decides what a message means by its
number, `contents` what its events do, and `caches` is what a worker's publishers come to.
What they send is read by `router.kv_wire`, and kept by `solver.routing.cached_blocks`.
"""
