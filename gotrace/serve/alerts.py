"""What Alertmanager sends to a webhook, and which process an alert means."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field

from gotrace.serve.tracing import Traced

_MOST_ALERTS, _MOST_LABELS, _LONGEST = 100, 64, 1000
_SHORTEST_ID = 8
_ID = re.compile(r"[a-z0-9+.-]*:?/*[0-9a-f]{8,64}")
_PID, _NAME, _CONTAINER, _POD = ("pid",), ("target", "name", "process", "comm"), ("container_id", "container"), ("pod_uid", "uid", "pod")


@dataclass(frozen=True)
class Alert:
    """An alert that fires."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)

    def means(self, traced: Traced) -> bool:
        """Whether its labels name this process: by pid, by name, by container or by pod. All that are there must fit, and one must be."""
        answers = [
            answer for answer in (
                self._fits(_PID, {str(traced.pid)}), self._fits(_NAME, {traced.name}),
                self._begins(_CONTAINER, traced.container), self._is_pod(traced), *self._is_called(traced),
            ) if answer is not None
        ]
        return bool(answers) and all(answers)

    def _given(self, names: tuple[str, ...]) -> str | None:
        return next((self.labels[name] for name in names if self.labels.get(name)), None)

    def _fits(self, names: tuple[str, ...], values: set[str]) -> bool | None:
        given = self._given(names)
        return None if given is None else given in values

    def _is_pod(self, traced: Traced) -> bool | None:
        given = self._given(_POD)
        return None if given is None else given in (traced.pod, traced.where.names.pod) or given == hostname_of(traced.pid)

    def _is_called(self, traced: Traced) -> tuple[bool | None, ...]:
        """By the namespace and the container's name, which make nothing fit by themselves: there are many in one."""
        names = traced.where.names
        pairs = ((self.labels.get("namespace"), names.namespace), (self.labels.get("container"), names.container))
        return tuple(False for given, known in pairs if given and known and not _ID.fullmatch(given) and given != known)

    def _begins(self, names: tuple[str, ...], value: str) -> bool | None:
        """In Kubernetes the label container is a name, which tells nothing here."""
        given = self._given(names)
        given = given.rpartition("/")[2] if given is not None else None  # containerd://ID
        if given is None or len(given) < _SHORTEST_ID or not all(digit in "0123456789abcdef" for digit in given):
            return None
        return value.startswith(given) or given.startswith(value) and bool(value)


def alerts_of(body: bytes) -> list[Alert]:
    """The alerts in a webhook's body that fire (version 4 of Alertmanager's format).

    Raises:
        ValueError: it is no such thing.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON") from None
    alerts = message.get("alerts") if isinstance(message, dict) else None
    if not isinstance(alerts, list):
        raise ValueError("it has no list alerts")
    if len(alerts) > _MOST_ALERTS:
        raise ValueError(f"more than {_MOST_ALERTS} alerts")
    found = []
    for alert in alerts:
        labels = alert.get("labels") if isinstance(alert, dict) else None
        if not isinstance(labels, dict) or len(labels) > _MOST_LABELS:
            raise ValueError("an alert without labels, or with too many")
        texts = {key: value[:_LONGEST] for key, value in labels.items() if isinstance(value, str)}
        if alert.get("status", "firing") == "firing":
            found.append(Alert(texts.get("alertname", "alert"), texts))
    return found


def hostname_of(pid: int) -> str:
    """What /etc/hostname says in the process's own files, "" if nothing: in Kubernetes the pod's name."""
    with suppress(OSError):
        fd = os.open(f"/proc/{pid}/root/etc/hostname", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.read(fd, 256).decode("ascii", "replace").strip()
        finally:
            os.close(fd)
    return ""
