"""Drive one partition: decide, run, commit."""
