"""The command line: thin verbs that turn flags into options, and the one place where errors become text and exit codes."""

from __future__ import annotations

import errno
import os
import sys

from gotrace.common.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, GotraceError

_SHORTAGES = {
    errno.EMFILE: "ulimit -n 4096; systemd: LimitNOFILE=",
    errno.ENFILE: "sysctl fs.file-max: the whole system is out of file descriptors",
    errno.ENOMEM: "free some memory, or raise the memory limit of gotrace's cgroup",
    errno.ENOSPC: "free some space, or send the output elsewhere",
    errno.EDQUOT: "free some space, or send the output elsewhere",
    errno.EAGAIN: "ulimit -u, or pids.max of gotrace's cgroup: no process or thread can be started",
}
"""What the system can run short of anywhere, and what to do about it."""


def main() -> None:
    """Runs ``gotrace`` and exits with the code that CLI users script against."""
    from gotrace.cli.interrupts import watch

    _open_closed_streams()
    watch()
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before there was anything to run
        code = _say("interrupted", None, EXIT_INTERRUPTED)
    sys.exit(code)


def _open_closed_streams() -> None:
    """Whoever started us may have closed 0, 1 or 2: a file or a map that got such a number would be written to by what libraries print."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free, which is `fd`


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code. No traceback reaches the user (GOTRACE_DEBUG=1 shows it)."""
    import click

    from gotrace.cli.verbs import gotrace

    try:
        result = gotrace.main(arguments, prog_name="gotrace", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except GotraceError as error:
        return _say(str(error), error.hint, error.exit_code)
    except click.exceptions.Abort:
        return _say("interrupted", None, EXIT_INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.UsageError as error:
        verb = error.ctx.command_path if error.ctx else "gotrace"
        return _say(error.format_message(), f"{verb} --help", EXIT_USAGE)
    except click.ClickException as error:
        return _say(error.format_message(), None, EXIT_FAILED)
    except KeyboardInterrupt:
        return _say("interrupted", None, EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone (| head): nothing can be said to it.
        _discard_stdout()
        return EXIT_FAILED
    except OSError as error:
        if error.errno not in _SHORTAGES:
            return _internal(error)
        if error.filename is None:  # it may have been stdout; the interpreter would try again at exit
            _discard_stdout()
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, (str, bytes)) else ""
        return _say(f"{os.strerror(error.errno)} ({errno.errorcode[error.errno]}){where}", _SHORTAGES[error.errno], EXIT_FAILED)
    except Exception as error:
        return _internal(error)


def _internal(error: Exception) -> int:
    if os.environ.get("GOTRACE_DEBUG"):
        raise error
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    place = f" in {os.path.basename(where.tb_frame.f_code.co_filename)}:{where.tb_lineno}" if where else ""
    return _say(
        f"internal error: {type(error).__name__}: {error}{place}",
        "run it again with GOTRACE_DEBUG=1 and report what it prints; the traced process is not affected",
        EXIT_FAILED,
    )


def _discard_stdout() -> None:
    from gotrace.render.terminal import discard

    discard(1)


def _say(message: str, hint: str | None, code: int) -> int:
    from gotrace.render.text import ERROR_LIMIT, sanitize

    print(f"error: {sanitize(message, ERROR_LIMIT)}", file=sys.stderr)
    if hint:
        print(f"hint: {sanitize(hint, ERROR_LIMIT)}", file=sys.stderr)
    return code
