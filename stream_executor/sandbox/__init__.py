"""Run a guest with no permissions and hard limits."""
