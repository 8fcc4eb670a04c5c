"""What is in a Perfetto trace, as the protocol buffers of PyPI's package ``perfetto`` decode it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from gotrace.export.perfetto import render_perfetto
from gotrace.profile.types import Profile


@dataclass
class Slice:
    name: str
    begin: int
    end: int
    arrows_in: list[int]
    notes: dict[str, Any]
    callstack: list[str]


@dataclass
class Track:
    name: str
    parent: str
    slices: list[Slice] = field(default_factory=list)
    instants: list[Slice] = field(default_factory=list)
    arrows_out: dict[int, int] = field(default_factory=dict)


def read(made: Profile, by_parent: bool = False) -> dict[str, Track]:
    """Tracks by name, or by ``PARENT / NAME``; checks on the way what trace_processor demands: known ids, ordered time, balanced slices."""
    trace = pb.Trace.FromString(render_perfetto(made))
    data = next(packet.interned_data for packet in trace.packet if packet.HasField("interned_data"))
    names = {entry.iid: entry.name for entry in data.event_names}
    categories = {entry.iid for entry in data.event_categories}
    note_names = {entry.iid: entry.name for entry in data.debug_annotation_names}
    strings = {entry.iid: entry.str.decode() for entry in data.debug_annotation_string_values}
    functions = {entry.iid: entry.str.decode() for entry in data.function_names}
    mappings = {entry.iid for entry in data.mappings}
    assert all(frame.mapping_id in mappings for frame in data.frames)
    frames = {frame.iid: functions[frame.function_name_id] for frame in data.frames}
    stacks = {stack.iid: [frames[number] for number in stack.frame_ids] for stack in data.callstacks}
    tracks: dict[int, Track] = {}
    opened: dict[int, Slice] = {}
    flows: dict[int, int] = {}
    before = 0
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id == 1
        if packet.HasField("track_descriptor"):
            described = packet.track_descriptor
            parent = tracks[described.parent_uuid].name if described.parent_uuid else ""
            tracks[described.uuid] = Track(described.name or described.process.process_name, parent)
        if not packet.HasField("track_event"):
            continue
        event = packet.track_event
        assert packet.timestamp >= before and packet.sequence_flags == 2
        before = packet.timestamp
        if event.type == pb.TrackEvent.TYPE_SLICE_END:
            opened.pop(event.track_uuid).end = packet.timestamp
            continue
        assert set(event.category_iids) <= categories
        notes = {
            note_names[note.name_iid]: strings[note.string_value_iid] if note.string_value_iid else note.int_value
            for note in event.debug_annotations
        }
        assert all(flow in flows for flow in event.terminating_flow_ids)
        made_slice = Slice(
            names[event.name_iid], packet.timestamp, packet.timestamp, list(event.terminating_flow_ids), notes,
            stacks[event.callstack_iid] if event.callstack_iid else [],
        )  # fmt: skip
        track = tracks[event.track_uuid]
        for flow in event.flow_ids:
            assert flow not in flows
            flows[flow] = track.arrows_out[flow] = packet.timestamp
        if event.type == pb.TrackEvent.TYPE_INSTANT:
            track.instants.append(made_slice)
        else:
            assert event.track_uuid not in opened
            opened[event.track_uuid] = made_slice
            track.slices.append(made_slice)
    assert not opened
    found = {f"{track.parent} / {track.name}" if by_parent else track.name: track for track in tracks.values()}
    assert len(found) == len(tracks)
    return found
