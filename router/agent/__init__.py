"""The agent: runs beside one engine, decides its iterations, and reports its state."""
