"""Parse a command line, call, print."""
