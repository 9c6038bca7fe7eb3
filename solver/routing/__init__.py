"""The fleet: which request goes to which worker, and when it is sent.

Decides placements, from what a router can see: requests with predicted lengths, each worker's cost
model, what it was given and what has come back (`load`), and the prefixes it is likely to hold
(`prefixes`). `problem` turns those into a packing problem, `window` says when a window closes,
`rolling` plans all that is unsent again and again and sends late, `recall` says what to take back.

Invariants: every request is placed exactly once, on a worker that may serve it; nothing waits while
waiting cannot help; planning again never loses a request.

Must not know: connections, the text of prompts, clocks. Begin with `rolling`, then `problem`;
`dispatchers/` has ours and what other routers do, one a file.
"""
