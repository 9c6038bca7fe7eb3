"""The page at ``/`` and the one stream that feeds it, computed once for all who look.

`frames` is what the page shows as plain data, `events` the stream, `watch` follows agents' slots
while somebody looks, `page` serves the files in `static/`.
"""
