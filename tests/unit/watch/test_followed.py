"""Which requests are followed: some of each duration, and the slowest, all of them once."""

from __future__ import annotations

from histories import check_covers, part, request, timelines

from gotrace.watch.requests import followed as module
from gotrace.watch.requests.followed import Followed
from gotrace.watch.requests.path import How


def test_of_each_duration_a_few_are_followed_and_summed_up() -> None:
    made = Followed(timelines(*(part(goid, 1000 * goid + 10, 1000 * goid + 60) for goid in range(1, 101))), 0)
    made.take([request(goid, 1000 * goid, 1000 * goid + 100, bucket=goid % 2) for goid in range(1, 101)])
    assert set(made.buckets[0]) == {0, 1}
    for bucket in made.buckets[0].values():
        # They stand for all 50.
        assert 3 < bucket.count <= 20 and bucket.total_ns == 5000 >= sum(bucket.causes.values()) > 4900
        waited = {cause: total for cause, total in bucket.causes.items() if cause.how is How.WAITED}
        assert 2450 < sum(waited.values()) <= 2500 and all(cause.own for cause in waited)
    assert made.slowest == {0: []}


def test_rare_durations_are_followed_however_many_there_are_of_others() -> None:
    made = Followed(timelines(), 0)
    made.take([request(goid, 0, 100, bucket=3) for goid in range(1000)] + [request(5000, 0, 9000, bucket=90)])
    assert made.buckets[0][90].count == 1 and made.buckets[0][90].total_ns == 9000


def test_causes_are_kept_apart_by_why_they_were_waited_for() -> None:
    """The request sleeps itself, and waits for one that sleeps in the same place, in its own row."""
    sleep, wait = part(1, 10, 20, row=77), part(1, 30, 50, waker=2, row=88)
    made = Followed(timelines(sleep, wait, part(2, 25, 50, row=77)), 0)
    made.take([request(1, 0, 50)])
    causes = {(cause.row, cause.via, cause.own): total for cause, total in made.buckets[0][0].causes.items() if cause.how is How.WAITED}
    assert causes == {(77, 0, True): 10, (77, 88, False): 20}


def test_functions_are_kept_apart() -> None:
    made = Followed(timelines(), 2)
    made.take([request(1, 0, 10, function=0), request(1, 2, 8, function=3)])
    assert {function: buckets[0].total_ns for function, buckets in made.buckets.items()} == {0: 10, 3: 6}
    assert {function: [slow.duration_ns for slow in found] for function, found in made.slowest.items()} == {0: [10], 3: [6]}


def test_the_slowest_are_kept_whenever_they_come() -> None:
    made = Followed(timelines(part(50, 10, 60)), 3)
    durations = [(goid * 37) % 101 for goid in range(1, 101)]
    for at in range(0, 100, 7):
        made.take([request(goid + 1, 0, durations[goid]) for goid in range(at, min(at + 7, 100))])
    assert [slow.duration_ns for slow in made.slowest[0]] == sorted(durations)[:-4:-1]
    for slow in made.slowest[0]:
        check_covers(slow.steps, slow.start_ns, slow.start_ns + slow.duration_ns)


def test_without_exemplars_none_is_kept() -> None:
    made = Followed(timelines(), 0)
    for _ in range(3):
        made.take([request(1, 0, 10)])
    assert not made.slowest[0]


def test_the_causes_of_a_duration_are_bounded_and_its_time_is_right(monkeypatch) -> None:
    monkeypatch.setattr(module, "_MOST_CAUSES", 5)
    made = Followed(timelines(*(part(1, 10 * number, 10 * number + 5) for number in range(20))), 0)
    made.take([request(1, 0, 200)])
    bucket = made.buckets[0][0]
    assert len(bucket.causes) == 5 and bucket.total_ns == 200 and 0 < sum(bucket.causes.values()) < 200


def test_some_of_all_durations_come_before_more_of_any(monkeypatch) -> None:
    """Time for 60 requests, of a thousand in ten buckets."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(module.time, "monotonic_ns", lambda: next(ticks))
    monkeypatch.setattr(module, "_FOLLOW_FOR_NS", 60)
    made = Followed(timelines(), 0)
    made.take([request(goid, 0, goid, bucket=goid % 10) for goid in range(1, 1001)])
    counts = {number: bucket.count for number, bucket in made.buckets[0].items()}
    assert set(counts) == set(range(10)) and min(counts.values()) >= 4 and sum(counts.values()) == 60
    assert counts[9] > counts[0]


def test_following_takes_a_bounded_time(monkeypatch) -> None:
    monkeypatch.setattr(module, "_FOLLOW_FOR_NS", -1)
    made = Followed(timelines(), 2)
    made.take([request(goid, 0, goid) for goid in range(1, 100)])
    assert not made.buckets and [slow.duration_ns for slow in made.slowest[0]] == [99, 98]


def test_requests_stand_for_those_of_their_own_time() -> None:
    """Ten that sleep, of which all are followed, then a thousand that do not."""
    made = Followed(timelines(*(part(goid, 10, 100) for goid in range(1, 11))), 0)
    made.take([request(goid, 0, 100) for goid in range(1, 11)])
    made.take([request(goid, 0, 100) for goid in range(11, 1011)])
    bucket = made.buckets[0][0]
    assert bucket.total_ns == 1010 * 100
    assert sum(total for cause, total in bucket.causes.items() if cause.how is How.WAITED) == 10 * 90


def test_what_there_was_no_time_for_is_followed_at_the_end(monkeypatch) -> None:
    made = Followed(timelines(), 0)
    made.take([request(1, 0, 10, bucket=1), request(2, 0, 10, bucket=1)])
    monkeypatch.setattr(module, "_FOLLOW_FOR_NS", -1)
    for goid in range(10, 16):
        made.take([request(goid, 0, 10, bucket=goid % 3)])
    assert made.buckets[0].keys() == {1}
    for _ in range(2):
        made.take_left()
        found = {number: (bucket.count, bucket.total_ns) for number, bucket in made.buckets[0].items()}
        assert found == {0: (2, 20), 1: (4, 40), 2: (2, 20)}


def test_groups_that_were_begun_are_completed_at_the_end(monkeypatch) -> None:
    """There is time for eight of 16 that are chosen of twenty; half of all have slept."""
    made = Followed(timelines(*(part(goid, 10, 110) for goid in range(1, 20, 2))), 0)
    ticks = iter(range(10**6))
    monkeypatch.setattr(module.time, "monotonic_ns", lambda: next(ticks))
    monkeypatch.setattr(module, "_FOLLOW_FOR_NS", 8)
    made.take([request(goid, 0, 120) for goid in range(1, 21)])
    assert (made.buckets[0][0].count, made.buckets[0][0].total_ns) == (8, 2400)
    made.take_left()
    bucket = made.buckets[0][0]
    assert (bucket.count, bucket.total_ns) == (16, 2400) and 2400 - 10 < sum(bucket.causes.values()) <= 2400
    slept = sum(total for cause, total in bucket.causes.items() if cause.how is How.WAITED)
    assert 6 / 16 * 2000 - 10 <= slept <= 10 / 16 * 2000


def test_that_takes_a_bounded_time_too_and_begins_with_the_slowest(monkeypatch) -> None:
    made = Followed(timelines(), 0)
    monkeypatch.setattr(module, "_FOLLOW_FOR_NS", -1)
    for _ in range(1000):
        made.take([request(goid, 0, 10, bucket=number) for number in range(20) for goid in range(20)])
    ticks = iter(range(10**6))
    monkeypatch.setattr(module.time, "monotonic_ns", lambda: next(ticks))
    monkeypatch.setattr(module, "_AT_THE_END_NS", 100)
    made.take_left()
    # Of each duration the latest times, of each of these a few.
    assert {number: bucket.count for number, bucket in made.buckets[0].items()} == {19: 64, 18: 36}
