"""What can go wrong with a command: one table of names, exit codes and remedies.

Every error leaves as ``error[NAME]: what``, ``cause: why``, ``try: one command``.
``translate`` turns the exceptions of the other rooms into rows of the table; what it
does not know is our bug. The table feeds ``explain`` and the documents.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Exit(IntEnum):
    """Exit codes; a stable contract."""

    OK = 0
    FINDING = 1
    USAGE = 2
    UNKNOWN = 3
    CONFIGURATION = 4
    UNSUCCESSFUL = 5
    BUG = 70
    INTERRUPTED = 130


EXITS: dict[Exit, str] = {
    Exit.OK: "All is well.",
    Exit.FINDING: "A verifier found something wrong; only a verifier says this.",
    Exit.USAGE: "The command line is wrong, or names something that is not there.",
    Exit.UNKNOWN: "Could not tell: something needed to decide cannot be reached.",
    Exit.CONFIGURATION: "The configuration is wrong or incomplete.",
    Exit.UNSUCCESSFUL: "`submit --wait` or `invoke`: the execution did not succeed.",
    Exit.BUG: "A bug in this program; report it with the output of --debug.",
    Exit.INTERRUPTED: "Interrupted (Ctrl-C).",
}


class Kind(NamedTuple):
    """One row: how a kind of failure exits, what it means, what to do about it."""

    exit: Exit
    meaning: str
    remedy: str


HELP = "wasm-executor --help"
"""What to try if nothing better is known; the entry point names the subcommand."""

KINDS: dict[str, Kind] = {
    "USAGE": Kind(
        Exit.USAGE,
        "The command line cannot be understood.",
        HELP,
    ),
    "NOT_FOUND": Kind(
        Exit.USAGE,
        "What the command line names does not exist.",
        HELP,
    ),
    "REFUSED": Kind(
        Exit.USAGE,
        "The request or order is not acceptable; nothing was sent.",
        HELP,
    ),
    "CONFIG": Kind(
        Exit.CONFIGURATION,
        "The configuration is wrong or incomplete.",
        "wasm-executor --test-config",
    ),
    "TOPICS": Kind(
        Exit.CONFIGURATION,
        "Topics are missing or not as they must be.",
        "wasm-executor topics plan",
    ),
    "KAFKA_REFUSED": Kind(
        Exit.CONFIGURATION,
        "The broker refuses this, and will refuse it every time.",
        "wasm-executor doctor",
    ),
    "UNAVAILABLE": Kind(
        Exit.UNKNOWN,
        "Something that is needed cannot be reached now.",
        "wasm-executor doctor",
    ),
    "OUTCOME_UNKNOWN": Kind(
        Exit.UNKNOWN,
        "A record may or may not have been written; it was not written twice.",
        "wasm-executor request show REQUEST_ID",
    ),
    "TIMEOUT": Kind(
        Exit.UNKNOWN,
        "No answer came in time. The request stays valid.",
        "wasm-executor status",
    ),
    "INTEGRITY": Kind(
        Exit.FINDING,
        "A signed log is not what it must be.",
        "wasm-executor audit verify",
    ),
    "EMBEDDED_KAFKA": Kind(
        Exit.CONFIGURATION,
        "Kafka cannot be started on this machine.",
        "wasm-executor doctor",
    ),
    "BUG": Kind(
        Exit.BUG,
        "A bug in this program.",
        "wasm-executor --debug …",
    ),
}


class CommandError(Exception):
    """A command cannot do what it was asked.

    Args:
        kind: a name of ``KINDS``.
        what: one sentence.
        cause: why, in a few words or lines; None if ``what`` says it all.
        remedy: one command (or sentence) to try; the kind's own if None.
    """

    def __init__(
        self,
        kind: str,
        what: str,
        *,
        cause: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(what)
        self.kind = kind
        self.what = what
        self.cause = cause
        self.remedy = remedy or KINDS[kind].remedy

    @property
    def exit(self) -> Exit:
        """How the process exits."""
        return KINDS[self.kind].exit

    def __str__(self) -> str:
        lines = [f"error[{self.kind}]: {self.what}"]
        if self.cause:
            first, *rest = self.cause.splitlines()
            lines += [f"  cause: {first}", *(f"         {line}" for line in rest)]
        lines.append(f"  try: {self.remedy}")
        return "\n".join(lines)


# Names of exception classes, most special first, and the row they belong to. By name,
# because importing all of these rooms would cost every command half a second.
_KIND_OF: dict[str, str] = {
    "ArgumentError": "REFUSED",
    "OrderRefusedError": "REFUSED",
    "EmbeddedKafkaError": "EMBEDDED_KAFKA",
    "ResultTimeoutError": "TIMEOUT",
    "OutcomeUnknownError": "OUTCOME_UNKNOWN",
    "IndefiniteError": "OUTCOME_UNKNOWN",
    "MalformedError": "REFUSED",
    "TransientError": "UNAVAILABLE",
    "BrokerRefusedError": "KAFKA_REFUSED",
    "TopicDriftError": "TOPICS",
    "ConfigError": "CONFIG",
    "IntegrityError": "INTEGRITY",
}


def translate(error: BaseException) -> CommandError:
    """Give the row of the table that an exception belongs to."""
    if isinstance(error, CommandError):
        return error
    what, _, cause = str(error).partition("\n")
    remedy = getattr(error, "remedy", None)
    names = [cls.__name__ for cls in type(error).__mro__]
    kind = next((_KIND_OF[name] for name in names if name in _KIND_OF), "BUG")
    problems = getattr(error, "problems", ())
    if getattr(error, "reason", None) == "unknown_topic":
        kind = "TOPICS"
    elif len(problems) > 1:
        what, cause = f"{len(problems)} settings are refused", "\n".join(problems)
    elif kind == "TIMEOUT":
        submission = getattr(error, "submission", None)
        remedy = f"wasm-executor request show {getattr(submission, 'position', '…')}"
    elif ids := getattr(error, "request_ids", None):
        remedy = f"wasm-executor request show {ids[0]}"
    elif kind == "BUG":
        what = f"{type(error).__name__}: {what}"
        remedy = "the same command with --debug, and report what it prints"
    return CommandError(kind, what, cause=cause or None, remedy=remedy)
