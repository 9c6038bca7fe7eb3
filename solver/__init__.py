"""Decisions without a clock, a socket or randomness of their own.

Time comes in as ``now`` in seconds, randomness as ``random.Random``, and results go out as data.
The live gateway, the live agent and the simulator run the same objects from this package.
"""
