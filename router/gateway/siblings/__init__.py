"""The processes of one gateway: how any of them answers for all, and what each has sent where.

`folder` is where they find each other, `ask` how they ask, `together` puts their answers together,
`board` tells each what the others have in flight. Their supervisor is `router.processes`. Knows no
plan and no worker beyond its URL.
"""
