"""What outputs show of a stretch of time: of its requests only some (``--slower-than``, ``--band``)."""

from __future__ import annotations

from dataclasses import replace

from gotrace.profile.filters import filter_requests
from gotrace.profile.hotspots import find_hotspots
from gotrace.profile.types import Profile


def narrowed(profile: Profile, band: tuple[float, float] | None, slower_than_ns: int) -> Profile:
    """What happened in those requests, everything without either. Where no request ended, it is everything, and a note says so."""
    if band is None and not slower_than_ns:
        return profile
    if not profile.requests:
        note = "no request ended in the window: --band and --slower-than have nothing to choose from"
        return replace(profile, notes=[*profile.notes, note])
    found = filter_requests(profile, band, slower_than_ns)
    found.hotspots = find_hotspots(found)
    return found
