"""Virtual time: the live policies over cost models instead of engines."""
