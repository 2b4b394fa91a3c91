"""Ask for executions and read their results from Python."""
