"""Why each request went where it went, in numbers, kept for as many requests as asked for."""
