"""The gateway: takes requests, gathers and plans them, forwards them, accounts for them.

What happens to a request: `admission` (read it and admit it), `planning` (window, plan, send late,
recall), `forwarding` (to a worker and back, unchanged), `accounting` (what it turned out to be).
What surrounds it: `fleet` (workers, discovery, health), `explanations` (why it went there),
`dashboard`, `siblings` (other processes of the same gateway), and `routes`, the other endpoints.
`app` puts all together: begin there.
"""
