"""What `tests.bench.bench_peers` is made of: other routers, traffic, an open-loop client, figures.

`packages` gets the others' programs and `routers` says how each is started; `traffic` is what is
sent and `client` sends it; `runs` does one run on fresh agents, `figures` says what came of all.
"""
