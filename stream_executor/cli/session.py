"""What holds for one command line as a whole."""

debug = False
"""``--debug``: show tracebacks."""


def silence_libraries() -> None:
    """Keep libraries' log lines off stderr: what matters comes to us as an exception.

    ``run`` sends them into the service's log again (``logs.configure_logs``).
    """
    import logging  # noqa: PLC0415 - `--version` is quick

    logging.getLogger().addHandler(logging.NullHandler())
