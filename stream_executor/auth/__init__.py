"""Decide whether a request may run."""
