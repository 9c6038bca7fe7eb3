"""The workers: which there are, how they are, what they hold, and what they still have to do.

`workers` is the registry of each `worker`, a server or one rank of it, at its `address`; `reports`
are looks at each address (an agent's state stream, or a plain server's pages), `health` makes its
standing of these and of its answers, and `conditions` tells it what happens, with a clock and a
log. `stalls` times out requests at one that has fallen silent, `kv/` hears what its engine tells of
its cache, `prefixes` remembers what that is likely to hold otherwise, and `discovery/` finds
workers that come and go.
"""
