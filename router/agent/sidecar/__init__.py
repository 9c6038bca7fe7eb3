"""The sidecar: an agent before a server that it knows from outside only.

`completions` holds a request at the `gate` until `solver.batching.outside` releases it, passes it
to `upstream` byte for byte, and reads its progress (`stream_parser`) as it passes by; `health` says
when the server counts as down, and `proxy` passes on everything else. `app` puts all together:
begin there.
"""
