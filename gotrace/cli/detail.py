"""The flags of gotrace serve that say how finely waits are told apart, and which requests outputs have."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gotrace.cli.parameters import request_filters

if TYPE_CHECKING:
    from gotrace.serve.options import Detail

_Command = TypeVar("_Command", bound=Callable[..., object])


@dataclass(frozen=True)
class DetailFlags:
    """The values of the flags."""

    band: tuple[float, float] | None
    labels: tuple[str, ...]
    objects: bool
    slower_than: int

    def options(self) -> Detail:
        """What they mean.

        Raises:
            UsageError: a label can't be told.
        """
        from gotrace.run.options import AttachOptions, check_labels
        from gotrace.serve.options import Detail

        labels = tuple(dict.fromkeys(self.labels))
        check_labels(AttachOptions((), labels=labels))
        return Detail(self.objects, labels, self.band, self.slower_than)


_FLAGS = (
    click.option("--label", "labels", multiple=True, metavar="KEY",
                 help="Keep goroutines apart by the value of this pprof label, which is a frame at the root of their stacks. Repeatable."),
    click.option("--objects", is_flag=True, help="Tell waits apart by what they are for: channel, lock, file, timer."),
)


def detail_flags(command: _Command) -> Any:
    """The flags; the command gets them as one value, `detail`."""

    @functools.wraps(command)
    def with_detail(**values: Any) -> object:
        return command(detail=DetailFlags(**{name: values.pop(name) for name in DetailFlags.__dataclass_fields__}), **values)

    wrapped: Any = with_detail
    for option in reversed(_FLAGS):
        wrapped = option(wrapped)
    return request_filters(wrapped)
