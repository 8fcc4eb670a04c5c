"""Stays in arrays behave as a dictionary of them would."""

from __future__ import annotations

import random

from gotrace.profile.stays import Ids, Stay, Stays


def test_stays_are_those_of_a_dictionary() -> None:
    chance, stays, truth = random.Random(1), Stays(), dict[int, tuple[tuple[object, ...], Stay]]()
    for step in range(3000):
        index, goid = chance.randrange(300), chance.randrange(1, 2**64)
        if chance.random() < 0.4:
            found, known = stays.pop(index), truth.pop(index, None)
            assert found == (known[1] if known is not None else None)
        elif index not in truth:
            key = (goid, chance.randrange(3), None)
            stays.put(index, key, goid, step, None)
            truth[index] = key, Stay(goid, step, None, False)
        if step == 1500:
            stays.begin(step)
            truth = {index: (key, stay._replace(start_ns=step, begun_before=True)) for index, (key, stay) in truth.items()}
        assert len(stays) == len(truth) and (index in stays) == (index in truth) and stays.get(index) == truth.get(index, (None, None))[1]
    assert list(stays.values()) == [truth[index][1] for index in sorted(truth)]
    for index, (key, _) in truth.items():
        assert stays.has_key(index, key) and stays.has_stem(index, key[:-1])
        assert not stays.has_key(index, (*key[:-1], 1)) and not stays.has_stem(index, (0, key[1]))
    stays.clear()
    assert not len(stays) and list(stays.values()) == [] and stays.get(0) is None


def test_ids_are_counted_once() -> None:
    chance, ids, truth = random.Random(2), Ids(), set[int]()
    for _ in range(20_000):
        number = chance.randrange(5000) << 48
        ids.add(number)
        truth.add(number)
    assert len(ids) == len(truth) and set(ids) == truth
