"""A request's arrival: its endpoint, and the headers it came with.

`completions` is the path of a request from its first byte in to its last byte out: begin there.
"""
