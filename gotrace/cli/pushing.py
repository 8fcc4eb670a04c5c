"""The flags of gotrace serve that say what is pushed, and where to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gotrace.cli.parameters import DURATION, SIZE

if TYPE_CHECKING:
    from gotrace.serve.push.options import PushOptions

_Command = TypeVar("_Command", bound=Callable[..., object])


@dataclass(frozen=True)
class PushFlags:
    """The values of the flags; those that may be repeated have the form WHAT=VALUE."""

    push: tuple[str, ...]
    push_every: int | None
    push_bytes: int | None
    push_tenant: tuple[str, ...]
    push_bearer: tuple[str, ...]
    push_basic: tuple[str, ...]
    push_ca: tuple[str, ...]

    def options(self, keep_ns: int) -> PushOptions | None:
        """What they mean, where so much of the past is kept; None if nothing is pushed.

        Raises:
            UsageError: they mean nothing.
            Refused: a library is missing.
        """
        from gotrace.serve.push.options import check_kept, push_options

        found = push_options(
            self.push, self.push_every, self.push_bytes, self.push_tenant, self.push_bearer, self.push_basic, self.push_ca
        )
        check_kept(found, keep_ns)
        return found


_FLAGS = (
    click.option("--push", multiple=True, metavar="WHAT=URL",
                 help="Send what each process did on: pyroscope=URL, otlp=URL (OpenTelemetry), or directory=PATH (pprof files). "
                      "Each once."),
    click.option("--push-basic", multiple=True, metavar="WHAT=FILE", help="The file has USER:PASSWORD for that address."),
    click.option("--push-bearer", multiple=True, metavar="WHAT=FILE", help="The file has a token for that address."),
    click.option("--push-bytes", type=SIZE, metavar="SIZE",
                 help="How much may wait on disk for each address, and how large the files in the directory may be; the oldest make "
                      "room. [default: 64MB]"),
    click.option("--push-ca", multiple=True, metavar="WHAT=FILE",
                 help="The certificates that are trusted for that address (PEM), in place of the system's."),
    click.option("--push-every", type=DURATION, metavar="DURATION", help="How much time each profile covers. [default: 15s]"),
    click.option("--push-tenant", multiple=True, metavar="WHAT=TENANT", help="The tenant (X-Scope-OrgID) at that address."),
)


def push_flags(command: _Command) -> Any:
    """The flags; the command gets them as one value, `push`."""

    @functools.wraps(command)
    def with_push(**values: Any) -> object:
        names = [name for name in PushFlags.__dataclass_fields__]
        return command(push=PushFlags(**{name: values.pop(name) for name in names}), **values)

    wrapped: Any = with_push
    for option in reversed(_FLAGS):
        wrapped = option(wrapped)
    return wrapped
