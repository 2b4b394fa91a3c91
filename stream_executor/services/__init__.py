"""Wire the parts together into processes."""
