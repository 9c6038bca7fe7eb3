"""The workers: which there are, how they are, what they hold, and what they still have to do.

`workers` is the registry of each `worker`; `reports` is each one's own word (an agent's state
stream, or probes of a plain server), `stalls` times out requests at one that has fallen silent,
`prefixes` remembers what its cache is likely to hold, and `discovery/` finds workers that come and
go.
"""
