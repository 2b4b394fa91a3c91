"""Decide which module is meant."""
