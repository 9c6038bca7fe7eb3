"""A replay's report: one HTML page that needs nothing else."""
