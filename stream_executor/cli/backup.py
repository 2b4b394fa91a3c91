"""``backup``: make, verify and restore backups of audit.log and the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_executor.cli.failures import CommandError, Exit
from stream_executor.cli.options import Json
from stream_executor.cli.output import hint, print_json, progress, say
from stream_executor.cli.reach import EnvFile

if TYPE_CHECKING:
    from datetime import datetime

    from stream_executor.services.backup_verification import BackupReport

backup = typer.Typer(
    help="Back up audit.log and the configuration, verify, restore.",
    no_args_is_help=True,
)

BackupDir = Annotated[
    Path | None,
    typer.Option(
        "--backup-dir", metavar="DIR", help="Instead of WASM_EXECUTOR_BACKUP_DIR."
    ),
]
Archive = Annotated[
    Path | None,
    typer.Argument(metavar="[ARCHIVE]", help="wasm-audit-….tar.gz; else the newest."),
]
# `services.backup.KEEP_DAYS`, which is not imported for a help text.
_KEEP_DAYS = 2_555


@backup.command()
def now(
    *,
    backup_dir: BackupDir = None,
    keep_days: Annotated[
        int, typer.Option(metavar="N", min=1, help="Remove what is older, in days.")
    ] = _KEEP_DAYS,
    env_file: EnvFile = None,
    json: Json = False,
) -> None:
    """Make today's backup: the archive, and a copy of the configuration's folder.

    The service may run. A second backup on one day replaces the first.
    """
    from stream_executor.services.backup import Plan, back_up
    from stream_executor.settings import file_in_use, load

    settings = load(env_file)
    configuration = file_in_use(env_file).absolute()
    plan = Plan(
        settings.audit_log_path.absolute(),
        (backup_dir or settings.backup_dir).absolute(),
        configuration if configuration.is_file() else None,
        log_expected=settings.enable_audit_logging,
        keep_days=keep_days,
    )
    with progress("backing up"):
        made = back_up(plan, _local_time())
    if json:
        print_json(_plain(made), schema="backup")
    else:
        say(str(made.archive))
        if made.configuration is not None:
            say(str(made.configuration))
    if made.configuration is None:
        hint("no configuration file is in use, so none was copied")
    for path in made.left_out:
        hint(f"not copied: {path}")
    for name in made.pruned:
        hint(f"removed, older than {keep_days} days: {name}")


@backup.command()
def verify(
    *,
    archive: Archive = None,
    backup_dir: BackupDir = None,
    env_file: EnvFile = None,
    json: Json = False,
) -> int:
    """Verify a backup: checksums, every line, each sequence, the configuration.

    Whether the lines are true is not judged here: `audit verify` does, on the topics.
    Exit code 1: something is not as it must be. 3: could not tell.
    """
    from stream_executor.services.backup_verification import verify_backup

    path = _named(archive) or _newest(backup_dir, env_file)
    with progress("verifying"):
        try:
            with path.open("rb") as file:
                report = verify_backup(path, file, configuration=True)
        except OSError as error:
            raise CommandError(
                "UNAVAILABLE",
                f"{error.filename or path}: "
                f"{(error.strerror or 'cannot be read').lower()}",
                remedy="run it as root",
            ) from error
    _tell(report, as_json=json)
    return Exit.FINDING if report.findings else Exit.OK


@backup.command()
def restore(
    *,
    archive: Archive = None,
    config: Annotated[
        bool, typer.Option("--config", help="The configuration's folder, too.")
    ] = False,
    root: Annotated[
        Path, typer.Option(metavar="DIR", help="Where / of the archive is.")
    ] = Path("/"),
    accept_faults: Annotated[
        bool,
        typer.Option(
            "--accept-faults", help="Although the log's lines have gaps or the like."
        ),
    ] = False,
    backup_dir: BackupDir = None,
    env_file: EnvFile = None,
    json: Json = False,
) -> int:
    """Put a verified backup in place while the service is stopped.

    What is there now is kept aside. When the service starts, it takes later events
    from the audit topic. Exit code 1: not restored, for what verification found.
    """
    from stream_executor.services.backup_restore import Target, restore
    from stream_executor.settings import file_in_use, path_alone

    path = (_named(archive) or _newest(backup_dir, env_file)).absolute()
    target = Target(
        path_alone("audit_log_path", env_file).absolute(),
        file_in_use(env_file).absolute().parent if config else None,
        root.absolute(),
        accept_faults=accept_faults,
    )
    with progress("restoring"):
        done = restore(path, target, _local_time())
    if json:
        print_json(_plain(done), schema="restored")
    elif not done.files:
        _tell(done.report, as_json=False)
    else:
        for name in done.files:
            say(name)
    if not done.files:
        hint("nothing was restored")
        return Exit.FINDING
    for folder in done.aside:
        hint(f"what was there before: {folder}")
    hint("  now: sudo systemctl start wasm-executor")
    return Exit.OK


def _named(archive: Path | None) -> Path | None:
    if archive is not None and not archive.exists():
        raise CommandError(
            "NOT_FOUND", f"{archive}: no such file", remedy="ls -lh /backup"
        )
    return archive


def _newest(backup_dir: Path | None, env_file: Path | None) -> Path:
    from stream_executor.services.backup_archive import archives
    from stream_executor.settings import path_alone

    folder = backup_dir or path_alone("backup_dir", env_file)
    try:
        found = archives(folder)
    except OSError as error:
        raise CommandError(
            "NOT_FOUND",
            f"{folder}: {(error.strerror or 'cannot be read').lower()}",
            remedy="wasm-executor backup now",
        ) from error
    if not found:
        raise CommandError(
            "NOT_FOUND",
            f"{folder} holds no wasm-audit-YYYYMMDD.tar.gz",
            remedy="wasm-executor backup now",
        )
    return list(found.values())[-1]


def _tell(report: BackupReport, *, as_json: bool) -> None:
    verdict = "finding" if report.findings else "ok"
    if as_json:
        print_json({"verdict": verdict} | _plain(report), schema="backup-verification")
        return
    for one in report.findings:
        say(f"FAIL  {one.part}  {one.where}: {one.what}")
    for covered in report.covered:
        say(
            f"partition {covered.partition}: seq {covered.first_seq} to "
            f"{covered.last_seq}"
        )
    for note in report.notes:
        hint(f"note: {note}")
    say(f"{report.archive}: {verdict} ({report.lines} lines)")


def _plain(value: Any) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(value, str_keys=True, enc_hook=str)
    return plain


def _local_time() -> datetime:
    """Give the time whose day the manual's `date +%Y%m%d` prints."""
    from datetime import UTC, datetime

    return datetime.now(UTC).astimezone()
