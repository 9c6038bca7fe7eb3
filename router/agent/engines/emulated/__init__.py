"""An engine without a model that takes a real one's time, and says so."""
