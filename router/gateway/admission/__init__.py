"""A request's admission: its endpoint, and the headers it came with.

`completions` is the path of a request from its first byte in to its last byte out: begin there.
`attempts` sends it to one worker after another until one answers, as far as `retries` allows.
"""
