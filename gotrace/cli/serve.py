"""gotrace serve: recording when it happens."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import click

from gotrace.cli.detail import DetailFlags, detail_flags
from gotrace.cli.parameters import DURATION, SIZE, request_options
from gotrace.cli.pushing import PushFlags, push_flags
from gotrace.cli.targets import target_options
from gotrace.common.errors import Refused, UsageError

_SHORTEST_KEEP_NS, _LONGEST_KEEP_NS = 5_000_000_000, 3_600_000_000_000


EXAMPLES = """
\b
Examples:
  sudo gotrace serve --name '^(api|worker)$' --trigger 'max(reason~Mutex) > 500ms' --trigger 'p99(request~ServeHTTP) > 1s for 10s'
  go tool pprof 'http://127.0.0.1:9470/debug/pprof/offcpu?target=api&seconds=10'
  curl -s http://127.0.0.1:9470/targets | jq .
  curl -X POST 'http://127.0.0.1:9470/capture?target=api'
  kill -USR1 PID    a capture of each target, now
"""


def _living(pids: tuple[int, ...]) -> tuple[int, ...]:
    """Those that there are; says which are left out.

    Raises:
        Refused: there are none.
    """
    living = tuple(pid for pid in pids if os.path.exists(f"/proc/{pid}"))
    if pids and not living:
        named = f"process {pids[0]}" if len(pids) == 1 else f"process with one of these {len(pids)} pids"
        raise Refused(f"there is no {named}", "gotrace ps lists the Go processes; --name REGEX waits for one")
    for pid in pids:
        if pid not in living:
            print(f"note: there is no process {pid}: it is left out", file=sys.stderr)
    return living


@click.command(epilog=EXAMPLES)
@click.argument("pids", metavar="[PID...]", type=click.IntRange(min=1), nargs=-1)
@click.option("--after", type=DURATION, default="5s", show_default=True, help="How long after a trigger its capture ends.")
@click.option("--captures-per-hour", type=click.IntRange(1, 3600), default=12, show_default=True, metavar="N",
              help="How many captures triggers and alerts write in an hour, of all targets together; as many requests and as many "
                   "signals for captures are followed. The others are counted.")
@click.option("--cooldown", type=DURATION, default="5m", show_default=True,
              help="How soon the same trigger may fire again for the same process.")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path("gotrace-serve"), show_default=True, metavar="PATH",
              help="Where captures are written, with triggers.jsonl, a line for each.")
@click.option("--dir-bytes", "folder_bytes", type=SIZE, default="1GB", show_default=True,
              help="How large the captures there may be together: the oldest are deleted, those by request and signal first; the "
                   "latest stays.")
@click.option("--exemplars", type=click.IntRange(0, 1000), default=10, show_default=True, metavar="N",
              help="Keep the N slowest requests of each process one by one, each with where its time went.")
@click.option("--host-overhead", type=click.FloatRange(0, 100), metavar="PCT", default=0.0,
              help="Cap on what tracing costs all targets together, in percent of the CPU time of the whole host; 0: none but that of "
                   "each. Divided again each second.")
@click.option("--keep", type=DURATION, default="60s", show_default=True, help="How much of the past is kept of each process; 5s to 1h.")
@click.option("--keep-bytes", type=SIZE, default="32MB", show_default=True,
              help="How much memory that may take for each process; what is dropped is counted.")
@click.option("--kill-file", type=click.Path(path_type=Path), default=Path("/run/gotrace.off"), show_default=True, metavar="PATH",
              help="While this file exists, nothing is traced.")
@click.option("--listen", default="127.0.0.1:9470", show_default=True, metavar="ADDRESS",
              help="HOST:PORT, or unix:PATH; another host than this one only with --token-file.")
@click.option("--max-overhead", type=click.FloatRange(min=0.01), metavar="PCT", default=1.0, show_default=True,
              help="Cap on what tracing costs each target, in percent of the CPU time that it uses for itself, as for attach.")
@click.option("--memory", type=SIZE, default="300MB", show_default=True,
              help="How much memory gotrace may take: above it, less of the past is kept.")
@push_flags
@click.option("--rules", is_flag=True, help="List what a trigger can say, and end.")
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Serve by TLS with this certificate (PEM).")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Its key (PEM).")
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE",
              help="Requests need the token in this file: as a bearer's, or as the password of any user.")
@click.option("--trigger", "triggers", multiple=True, metavar="EXPR",
              help="Write a capture when this holds, as 'p99(state=runnable) > 50ms for 10s'. Repeatable; --rules lists what "
                   "can be said.")
@detail_flags
@request_options
@target_options
def serve(
    pids: tuple[int, ...], after: int, captures_per_hour: int, cooldown: int, exemplars: int, folder: Path, folder_bytes: int,
    host_overhead: float, keep: int, keep_bytes: int, kill_file: Path, listen: str, max_overhead: float, memory: int, rules: bool,
    tls_cert: Path | None, tls_key: Path | None, token_file: Path | None, triggers: tuple[str, ...], detail: DetailFlags,
    push: PushFlags, requests: str, spans: tuple[str, ...], name: str, container: str, cgroup: str,
) -> None:
    """Trace processes all the time, keep the last seconds, and serve them.

    Processes may come and go: what --name, --container or --cgroup selects is traced while it runs. A trigger writes a capture of
    what led to it, its flame graph and a dump. Over HTTP: metrics for Prometheus, pprof endpoints and flame graphs of what is kept.
    SIGUSR1 writes captures now, SIGHUP searches for processes again, SIGTERM ends.
    """
    from gotrace.serve.expressions import LONGEST_NS, parse
    from gotrace.serve.expressions import rules as listed

    if rules:
        sys.stdout.write(listed() + "\n")
        return
    from gotrace.host.choice import Wanted, selected
    from gotrace.kernel.host import preflight
    from gotrace.serve.listening import address_of, tls_of
    from gotrace.serve.options import ServeOptions

    wanted = Wanted(pids, name, container, cgroup)
    if not pids and not wanted.selects:
        raise UsageError("no process is given", "gotrace serve PID, or --name REGEX, --container ID, --cgroup PATH; gotrace ps lists them")
    if pids and wanted.selects:
        raise UsageError(f"a pid and {wanted} are both given", "give one of them")
    if not _SHORTEST_KEEP_NS <= keep <= _LONGEST_KEEP_NS:
        raise UsageError("--keep is between 5s and 1h", "--keep 60s")
    pushed = push.options(keep)
    parsed = tuple(parse(text) for text in triggers)
    kept = max(keep, LONGEST_NS) if parsed else keep
    if after > kept:
        raise UsageError("--after is more than is kept: captures would not have what led to the trigger", "--after 5s, or a longer --keep")
    address = address_of(listen)
    if not address.local and token_file is None:
        raise UsageError(f"--listen {listen} can be reached by other machines: that needs --token-file", "--token-file FILE")
    tls = tls_of(tls_cert, tls_key)
    options = ServeOptions(
        replace(wanted, pids=_living(pids)), keep_ns=keep, keep_bytes=keep_bytes, folder=folder.absolute(), folder_bytes=folder_bytes,
        triggers=parsed, after_ns=after, cooldown_ns=cooldown, per_hour=captures_per_hour,
        kill_file=kill_file, max_overhead=max_overhead, host_overhead=host_overhead, memory_bytes=memory, requests=requests == "auto",
        spans=spans, exemplars=exemplars, detail=detail.options(), push=pushed,
    )
    try:
        from gotrace.serve.serving import serve as run
    except ImportError as error:
        raise Refused(f"gotrace serve needs the Python package {error.name}", "pip install 'gotrace[serve]'") from None
    if wanted.selects:
        selected(wanted)
    preflight()
    if not run(options, address, token_file, tls):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # what is traced is detached with us
