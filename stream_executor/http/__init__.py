"""Serve metrics, health and the console."""
