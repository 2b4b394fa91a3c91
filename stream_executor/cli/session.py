"""What holds for one command line as a whole."""

debug = False
"""``--debug``: show tracebacks."""


def silence_libraries() -> None:
    """Keep libraries' log lines off stderr: what matters comes to us as an exception.

    ``run`` sends them into the service's log again (``logs.configure_logs``).
    """
    import logging

    logging.getLogger().addHandler(logging.NullHandler())


def silence_sandbox() -> None:
    """Keep the sandbox's events off stdout: its reports say what matters.

    With ``--debug`` they go to stderr. Called by the commands that start a sandbox.
    """
    from stream_executor.logs import drop_events

    drop_events(unless=debug)
