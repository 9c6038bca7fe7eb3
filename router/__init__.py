"""The acting half of Makespan: gateway, agents, the wire between them, and the commands."""
