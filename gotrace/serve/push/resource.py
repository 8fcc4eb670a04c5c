"""What names the process that a profile is of: what is seen from outside, and what it says of itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gotrace.render.text import sanitize
from gotrace.serve.tracing import Traced

MOST_DECLARED = 12
"""Attributes that a process may add; Pyroscope takes 30 labels of a series, those of samples included."""
_LONGEST = 256
_NO_LABELS = frozenset(("process.pid", "process.executable.path", "service.name"))
"""A process that is started again goes on with the same series."""


@dataclass(frozen=True)
class Resource:
    """`attributes` by their names in OpenTelemetry's conventions; `dropped`: how many were too many. `name`: of the executable."""

    name: str
    attributes: dict[str, str | int] = field(default_factory=dict)
    dropped: int = 0

    def labels(self) -> dict[str, str]:
        """As labels of a series, which tell services and containers apart, not processes."""
        found = {"service_name": str(self.attributes.get("service.name", "")) or self.name or "unknown_service"}
        for key, value in self.attributes.items():
            name = re.sub(r"[^A-Za-z0-9_]", "_", key)
            if key not in _NO_LABELS and not name.startswith("__"):
                found.setdefault(name, str(value))
        return found


def resource_of(traced: Traced, declared: Mapping[str, str]) -> Resource:
    """That of a process. `declared` is what it says of itself, which may be anything: it adds to what is seen, and changes none of that.
    Without a declared service.name there is none."""
    target, where = traced.target, traced.where.names
    seen: dict[str, str | int] = {
        "process.pid": traced.pid, "process.executable.name": traced.name, "process.executable.path": target.exe if target else "",
        "process.runtime.name": "go", "process.runtime.version": target.go_version if target else "",
        "container.id": traced.container, "k8s.pod.uid": traced.pod, "k8s.namespace.name": where.namespace, "k8s.pod.name": where.pod,
        "k8s.container.name": where.container,
    }
    attributes = {key: value if isinstance(value, int) else sanitize(value, _LONGEST) for key, value in seen.items() if value}
    left = MOST_DECLARED
    # Those that name a service come first, where there is not room for all.
    for key in sorted(declared, key=lambda key: not key.startswith("service.")):
        if key not in attributes and left:
            attributes[key] = sanitize(declared[key], _LONGEST)
            left -= 1
    return Resource(sanitize(traced.name, _LONGEST), attributes, len(set(declared) - set(attributes)))
