"""Where gotrace serve pushes to, and by which rights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gotrace.common.errors import UsageError
from gotrace.serve.listening import Address

KINDS = ("pyroscope", "otlp")
PATHS = {"pyroscope": "/push.v1.PusherService/Push", "otlp": "/v1development/profiles"}
_EXAMPLES = {"pyroscope": "http://127.0.0.1:4040", "otlp": "http://127.0.0.1:4318", "directory": "/var/lib/gotrace/profiles"}
_SHORTEST_NS = 1_000_000_000
_TENANT = re.compile(r"[A-Za-z0-9!_.*'()\-|]{1,150}")
"""What Pyroscope takes (grafana/dskit, tenant), and nothing that could end a header."""


@dataclass(frozen=True)
class Endpoint:
    """Where profiles are sent. `kind` is one of `KINDS`; `url` is the whole address. `bearer` and `basic` are files with a token, and with
    ``user:password``; `authority` has the certificates that are trusted, None: the system's."""

    kind: str
    url: str
    tenant: str = ""
    bearer: Path | None = None
    basic: Path | None = None
    authority: Path | None = None

    @property
    def secure(self) -> bool:
        """Whether TLS is used."""
        return self.url.startswith("https:")

    @property
    def in_the_clear(self) -> bool:
        """Whether credentials can be read on the way to another machine."""
        host = urlsplit(self.url).hostname or ""
        return not self.secure and bool(self.bearer or self.basic) and not Address(host).local


@dataclass(frozen=True)
class PushOptions:
    """`folder`: where pprof files are written, None: nowhere. `every_ns`: how much time each profile covers. `queue_bytes`: how much may
    wait for each endpoint, and how large the files in `folder` may be together."""

    endpoints: tuple[Endpoint, ...] = ()
    folder: Path | None = None
    every_ns: int = 15_000_000_000
    queue_bytes: int = 64 << 20


def push_options(
    pushes: Sequence[str], every_ns: int | None, queue_bytes: int | None, tenants: Sequence[str], bearers: Sequence[str],
    basics: Sequence[str], authorities: Sequence[str],
) -> PushOptions | None:
    """What the command line means; None if nothing is pushed.

    Raises:
        UsageError: it means nothing.
        Refused: a library is missing.
    """
    targets = _by_kind("--push", pushes, (*KINDS, "directory"))
    given = {
        flag: _by_kind(flag, values, tuple(targets))
        for flag, values in (
            ("--push-tenant", tenants), ("--push-bearer", bearers), ("--push-basic", basics), ("--push-ca", authorities),
        )
    }
    if not targets:
        if every_ns is not None or queue_bytes is not None:
            raise UsageError("--push-every and --push-bytes are for --push, and nothing is pushed", "--push pyroscope=http://127.0.0.1:4040")
        return None
    for flag, values in given.items():
        if "directory" in values:
            raise UsageError(f"{flag} is for an address, not for a directory", f"{flag} {KINDS[0]}=...")
    found = PushOptions(
        tuple(_endpoint(kind, address, given) for kind, address in targets.items() if kind in KINDS),
        Path(targets["directory"]).absolute() if "directory" in targets else None,
        PushOptions.every_ns if every_ns is None else every_ns, PushOptions.queue_bytes if queue_bytes is None else queue_bytes,
    )
    if found.every_ns < _SHORTEST_NS:
        raise UsageError("--push-every is at least 1s", "--push-every 15s")
    if found.queue_bytes < 1 << 20:
        raise UsageError("--push-bytes is at least 1MB", "--push-bytes 64MB")
    if "otlp" in targets:
        from gotrace.export.otlp import check_installed

        check_installed()
    return found


def check_kept(push: PushOptions | None, keep_ns: int) -> None:
    """Sees to it that what is to be pushed is still kept then.

    Raises:
        UsageError: it is not.
    """
    if push is not None and push.every_ns > keep_ns * 4 // 5:
        raise UsageError(
            "--push-every is more than four fifths of --keep: what is to be pushed would be gone", "--push-every 15s --keep 60s",
        )


def _by_kind(flag: str, values: Sequence[str], kinds: tuple[str, ...]) -> dict[str, str]:
    """The values of a flag by the kind that they are for; there may be one for each."""
    found: dict[str, str] = {}
    for text in values:
        kind, equals, value = text.partition("=")
        if not equals or not value or kind not in kinds:
            unpushed = value and kind in _EXAMPLES  # what else is given may be a password: it is not repeated
            what = f"{flag} {kind}=... is for nothing that is pushed" if unpushed else f"{flag} has not the form WHAT=VALUE"
            raise UsageError(what, f"WHAT is one of {', '.join(_EXAMPLES)}: --push pyroscope={_EXAMPLES['pyroscope']}")
        if kind in found:
            raise UsageError(f"{flag} {kind}=... is given twice", "a collector may send it on to several")
        found[kind] = value
    return found


def _endpoint(kind: str, address: str, given: dict[str, dict[str, str]]) -> Endpoint:
    hint = f"--push {kind}={_EXAMPLES[kind]}"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise UsageError(f"--push {kind}: this is no address", hint) from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"--push {kind}: the address has a password, which ps shows to everyone", f"--push-basic {kind}=FILE")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not address.isprintable() or " " in address:
        raise UsageError(f"--push {kind}=... is no address", hint)
    if parts.query or parts.fragment:
        raise UsageError(f"--push {kind}: what begins with ? or # has no meaning in an address to push to", hint)
    path = parts.path.rstrip("/")
    path = path if path.endswith(PATHS[kind]) else path + PATHS[kind]
    bearer, basic, authority = (given[flag].get(kind) for flag in ("--push-bearer", "--push-basic", "--push-ca"))
    if bearer and basic:
        raise UsageError(f"--push-bearer and --push-basic are both given for {kind}", "give one of them")
    tenant = given["--push-tenant"].get(kind, "")
    if tenant and not _TENANT.fullmatch(tenant):
        raise UsageError(f"--push-tenant {kind}=... is no name of a tenant", f"--push-tenant {kind}=team-a")
    files = (Path(file).absolute() if file else None for file in (bearer, basic, authority))
    return Endpoint(kind, f"{parts.scheme}://{parts.netloc}{path}", tenant, *files)
