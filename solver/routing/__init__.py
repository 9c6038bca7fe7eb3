"""The fleet: which request goes to which worker, and when it is sent.

Decides placements, from what a router can see: requests with predicted lengths, each worker's cost
model, what it was given and what has come back (`load`), and the prefixes it is likely to hold
(`prefixes`), or its engine says that it holds (`cached_blocks`, in `tiers`, of prompts by their
`marks` in a `prompt_tree`, along `prompt_paths` of a `block_tree`), or that is `foreseen`.
`objective` says what a placement costs, from what workers were sent `lately`, `assign` places a
window (with `found`, `few`, `lone`), `joint` betters that where there is time (with `turns`,
`places`, `moves`) and `check` judges it; `window` says when one closes, `rolling` plans what is
unsent again and again and sends late (with `fleet`, `held`), `recall` says what to take back,
`shed` what can no longer be in time; `problem` has jobs and views, `slots` learns how many
sequences a worker without an agent runs at once. `backlog` plans bulk work as a whole, in `pieces`.

Invariants: every request is placed exactly once, on a worker that may serve it; nothing waits while
waiting cannot help; planning again never loses a request.

Must not know: connections, the text of prompts, clocks. Begin with `objective`, then `rolling`;
`dispatchers/` has ours and what other routers do, one a file.
"""
