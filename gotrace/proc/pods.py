"""The names of Kubernetes pods and containers, as the kubelet writes them into the names of log files.

A process's control group has the container's id and the pod's uid; their names are known to the kubelet alone. It makes
/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log and /var/log/pods/NAMESPACE_POD_UID. Only names are read, never logs.
"""

from __future__ import annotations

import os
import re
import time
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

FOLDER = "/var/log"
_LISTED_S = 5
_MOST = 10_000
_POD, _SHORT = r"[a-z0-9](?:[a-z0-9.-]{0,252})", r"[a-z0-9](?:[a-z0-9-]{0,62})"
_CONTAINER_LOG = re.compile(rf"({_POD})_({_SHORT})_({_SHORT})-([0-9a-f]{{64}})\.log")
_POD_LOGS = re.compile(rf"({_SHORT})_({_POD})_([0-9a-f-]{{32,36}})")


class PodNames(NamedTuple):
    """All "" outside Kubernetes, or where the kubelet's files are not to be seen."""

    namespace: str = ""
    pod: str = ""
    container: str = ""


class Whereabouts:
    """Of one process, by its container's id and its pod's uid. The kubelet makes the files soon after the container has begun: what is not
    known yet is searched for again."""

    def __init__(self, container_id: str, pod_uid: str, folder: str = "") -> None:
        self._ids, self._folder = (container_id, pod_uid), folder or FOLDER
        self._names = PodNames()

    @property
    def names(self) -> PodNames:
        """What is known now."""
        if not self._names.container and any(self._ids):
            self._names = pod_names(*self._ids, self._folder)
        return self._names


def pod_names(container_id: str, pod_uid: str, folder: str = FOLDER) -> PodNames:
    """The names of a container, or those of its pod at least."""
    containers, pods = _listed(folder, int(time.monotonic() / _LISTED_S))
    return containers.get(container_id) or pods.get(pod_uid.replace("-", "")) or PodNames()


@lru_cache(4)
def _listed(folder: str, _when: int) -> tuple[dict[str, PodNames], dict[str, PodNames]]:
    containers, pods = {}, {}
    for name in _names_in(f"{folder}/containers"):
        if match := _CONTAINER_LOG.fullmatch(name):
            containers[match[4]] = PodNames(match[2], match[1], match[3])
    for name in _names_in(f"{folder}/pods"):
        if match := _POD_LOGS.fullmatch(name):
            pods[match[3].replace("-", "")] = PodNames(match[1], match[2])
    return containers, pods


def _names_in(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, _MOST)]
    except OSError:
        return []
