"""The agent: runs beside one engine, decides its iterations, and reports its state.

`loop` asks the batcher (`solver.batching`) for a stage, has the engine run it, and hands out its
tokens; `completions` are the endpoints, `reporter` tells gateways and Prometheus. `engines/` has
what runs a model, one a folder; `sidecar/` stands before a server that is known from outside only.
`app` puts all together: begin there.
"""
