"""Measures engines, in process or over HTTP, for a cost model."""
