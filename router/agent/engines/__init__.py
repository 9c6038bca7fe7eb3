"""Engines that an agent can drive."""
