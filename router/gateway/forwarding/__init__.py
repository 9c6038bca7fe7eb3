"""One request to one worker, and its answer back, unchanged.

`forwarder` speaks to the worker, `exchange` to the client; `verdict` says what a status means,
`attempt` notes each worker that was
tried, and `spans` makes a trace of them at the end.
"""
