"""OpenTelemetry's profiles, read with the official definitions, and field by field."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from anyprofile import any_profile
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from profiles import HOSTILE, MS, hostile_profile, layers, profile, recursion, shop_profile, stat, two_processes
from receivers import otlp_message
from wire import each, packed

from gotrace.common.errors import Refused
from gotrace.common.vocabulary import CONTINUED, Loss
from gotrace.export.otlp import PINNED, check_installed, render_otlp
from gotrace.profile.types import Frame, Profile

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())


def expected(made: Profile) -> tuple[int, int]:
    return sum(one.distribution.count for one in made.stacks if one.reason not in CONTINUED), made.total().total_ns


@pytest.mark.parametrize("make", [shop_profile, two_processes, hostile_profile])
def test_totals_are_the_profiles(make: Callable[[], Profile]) -> None:
    made = make()
    got = otlp_message(render_otlp(made, {}))
    assert got.total() == expected(made)
    by_state = {state: ns for (state,), (_, ns) in got.by("state").items()}
    assert by_state == {state.value: one.total_ns for state, one in made.by_state().items()}


@given(any_profile)
def test_any_profile_adds_up(made: Profile) -> None:
    assert otlp_message(render_otlp(made, {})).total() == expected(made)


def test_stacks_are_those_of_pprof() -> None:
    """Leaf first, without the way into the scheduler, the waker's stack and goexit; inlined calls are lines."""
    got = otlp_message(render_otlp(shop_profile(), {}))
    locks = [frames for labels, frames, _, _ in got.samples if labels.get("reason") == "sync.Mutex.Lock"]
    assert ["sync.(*Mutex).Lock", "main.(*Cache).Get"] == locks[0][:2] and locks[0][-1] == "net/http.(*Server).Serve.gowrap3"
    frames = {tuple(frames) for _, frames, _, _ in otlp_message(render_otlp(profile(layers()), {})).samples}
    assert ("io_schedule", "ext4_file_read_iter", "vfs_read", "read (system call)") in {one[:4] for one in frames}
    assert otlp_message(render_otlp(profile(recursion()), {})).total() == expected(profile(recursion()))


def test_what_the_resource_and_the_profile_say() -> None:
    from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import ExportProfilesServiceRequest

    made = shop_profile(losses={Loss.MISSED_HITS: 3})
    data = render_otlp(made, {"service.name": HOSTILE["terminal"], "process.pid": 4242}, dropped=2)
    got = otlp_message(data)
    assert got.labels == {"service.name": r"main.\x1b[2J\x1b]0;owned\x07f\x0aroot# \x0d\x9b31m", "process.pid": 4242}
    assert got.duration_ns == 10**10 and got.time_ns == 1772334855926 * MS
    request: Any = ExportProfilesServiceRequest.FromString(data)
    to = request.dictionary
    assert request.resource_profiles[0].resource.dropped_attributes_count == 2
    for one in request.resource_profiles[0].scope_profiles[0].profiles:
        (loss,) = (to.attribute_table[number] for number in one.attribute_indices)
        assert (to.string_table[loss.key_strindex], loss.value.int_value) == (f"gotrace.loss.{Loss.MISSED_HITS.value}", 3)
    build = to.attribute_table[to.mapping_table[1].attribute_indices[0]]
    assert to.string_table[to.mapping_table[1].filename_strindex] == "/srv/shop/bin/shop"
    assert (to.string_table[build.key_strindex], build.value.string_value) == ("process.executable.build_id.gnu", "9f86d081884c7d65")


def test_goroutine_labels_are_attributes() -> None:
    one = replace(stat([Frame("main.f")], [MS]), labels=(("tenant", "a"), ("", "x"), ("empty", "")))
    assert otlp_message(render_otlp(profile([one]), {})).samples == [({"state": "waiting", "tenant": "a"}, ["main.f"], 1, MS)]


def test_names_are_bounded() -> None:
    data = render_otlp(profile([stat([Frame("x" * 5000)], [MS])]), {"k": "v" * 5000})
    assert len(data) < 4000 and len(otlp_message(data).labels["k"]) == 1000


# -- the pinned release --------------------------------------------------------------------------------------------------


def samples_on_the_wire() -> list[bytes]:
    data = render_otlp(profile([stat([Frame("main.f")], [7 * MS])]), {})
    group = each(data, 1)[0]
    scope = each(group, 2)[0]  # type: ignore[arg-type]
    return [each(one, 2)[0] for one in each(scope, 2)]  # type: ignore[arg-type, misc]


def test_fields_have_the_numbers_of_the_published_definitions() -> None:
    """Sample of opentelemetry-proto from 1.10.0 on: stack_index 1, attribute_indices 2, link_index 3, values 4. The dictionary is field 2 of
    the request."""
    times, counts = samples_on_the_wire()
    assert each(times, 1) == [1] and packed(each(times, 4)[0]) == [7 * MS] and packed(each(counts, 4)[0]) == [1]  # type: ignore[arg-type]
    assert len(packed(each(times, 2)[0])) == 1 and not each(times, 3)  # type: ignore[arg-type]


def test_why_it_is_pinned() -> None:
    """As the releases up to 1.42 number the fields of Sample: the same bytes are read without an error, as something else."""
    file = descriptor_pb2.FileDescriptorProto(name="old.proto", package="old", syntax="proto3")
    message = file.message_type.add(name="Sample")
    for number, name, kind, label in ((1, "stack_index", 5, 1), (2, "values", 3, 3), (3, "attribute_indices", 5, 3), (4, "link_index", 5, 1)):
        message.field.add(name=name, number=number, type=kind, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    old = message_factory.GetMessageClass(pool.FindMessageTypeByName("old.Sample"))
    read: Any = old.FromString(samples_on_the_wire()[0])
    assert read.stack_index == 1 and list(read.values) != [7 * MS] and read.link_index == 0


def test_the_installed_release_is_the_pinned_one() -> None:
    assert f'"opentelemetry-proto=={PINNED}"' in (ROOT / "pyproject.toml").read_text()
    assert metadata.version("opentelemetry-proto") == PINNED
    check_installed()


def test_another_release_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "opentelemetry_proto-1.42.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: opentelemetry-proto\nVersion: 1.42.1\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "gotrace", "serve", str(os.getpid()), "--push", "otlp=http://127.0.0.1:4318"], capture_output=True,
        text=True, timeout=180, env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 3 and done.stderr.splitlines() == [
        f"error: OTLP needs opentelemetry-proto {PINNED}, and 1.42.1 is installed: its field numbers may be others",
        f"hint: pip install opentelemetry-proto=={PINNED}",
    ]


def test_without_it_the_hint_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not re.search("site|dist-packages|push", path)])
    with pytest.raises(Refused, match="needs the Python package opentelemetry-proto") as refused:
        check_installed()
    assert refused.value.hint == "pip install 'gotrace[push]'"
