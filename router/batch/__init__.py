"""``makespan batch``: a client of a gateway's batches, for people and scripts.

Speaks OpenAI's Batch API alone, so any server of that will do. `client` asks, `commands` shows.
"""
