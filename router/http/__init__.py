"""HTTP as gateway and agents share it: bodies, headers, errors, connections, sockets, serving.

`hot` takes requests on hot routes from the server's protocol, before any framework, and `client` is
what forwards them; `asgi` has the few lines of raw ASGI that they use. `schemas` reads OpenAI's
bodies only as far as a router needs them; `errors` has the one table from outcome to status, body
and headers; `usage` reads tokens from answers that pass by unchanged, and `said` whether they are
answers. Knows no plan, worker or engine.
"""
