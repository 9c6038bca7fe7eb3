"""The sidecar: an agent before a server that it knows from outside only."""
