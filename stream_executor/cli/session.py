"""What holds for one command line as a whole."""

debug = False
"""``--debug``: show tracebacks."""
