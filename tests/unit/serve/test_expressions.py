"""The language of triggers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gotrace.common.errors import UsageError
from gotrace.serve.expressions import EXAMPLES, FIGURES, Filter, parse, rules


def test_a_whole_one() -> None:
    trigger = parse("p99(state=runnable, place~'main\\.(handle|serve)') over 30s >= 1.5ms and goroutines < 10 for 2m")
    first, second = trigger.conditions
    assert (first.figure, first.over_ns, first.comparison, first.value) == ("p99", 30_000_000_000, ">=", 1_500_000)
    assert first.filters[0] == Filter("state", "runnable") and first.filters[1].fits("main.serve") and not first.filters[1].fits("main.run")
    assert first.text == "p99(state=runnable, place~'main\\.(handle|serve)') over 30s >= 1.5ms"
    assert (second.figure, second.value, trigger.for_ns) == ("goroutines", 10, 120_000_000_000)
    assert first.holds(1_500_000) and not first.holds(1_499_999) and second.holds(9) and not second.holds(10)


def test_shares_and_quotes() -> None:
    assert parse("throttled > 12.5%").conditions[0].value == 0.125
    assert parse('max(reason="chan receive (nil chan)") > 1s').conditions[0].filters == (Filter("reason", "chan receive (nil chan)"),)


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_are_right(text: str) -> None:
    assert parse(text).text == text and text in rules()


def test_rules_list_every_figure() -> None:
    assert all(f"  {name}" in rules() for name in FIGURES)


@pytest.mark.parametrize(("text", "column", "what"), [
    ("", 1, "the end is no figure"),
    ("p98 > 1s", 1, "'p98' is no figure"),
    ("p99", 4, "the end where one of"),
    ("p99(state=runnabel) > 5ms", 11, "no state is called 'runnabel'"),
    ("goroutines(state=netpoll) > 5", 18, "no state is called 'netpoll'"),
    ("goroutines(reason=sleep) > 5", 12, "'reason' is no filter here"),
    ("max(reason='x) > 3", 12, "a quote that is not closed"),
    ("goroutines > 5ms", 14, "a number (1000) belongs"),
    ("throttled > 5", 13, "a share (20%) belongs"),
    ("p99 > 10", 7, "is no duration"),
    ("max > 5ms for", 14, "the end is no duration"),
    ("max > 5ms or p99 > 1s", 11, "'or' where the trigger could end"),
    ("max(place~'(') > 1s", 11, "is no regular expression"),
    ("growing over 3s > 1m", 9, "takes no 'over'"),
    ("p99 over 61s > 1m", 10, "is not between 0 and 60s"),
    ("max(request=a,state=runnable) > 1s", 4, "request stands alone"),
    ("max(state=runnable state=waiting) > 1s", 20, "where ',' or ')' belongs"),
    ("max(state=runnable,state=waiting) > 1s", 20, "state is given twice"),
    ("max(state=) > 1s", 11, "where a text belongs"),
    ("max(state>runnable) > 1s", 10, "where '=' or '~' belongs"),
    ("max >", 6, "the end is no duration"),
    (" and ".join(["growing > 1m"] * 9), 133, "more than 8 conditions"),
])
def test_the_place_of_a_fault(text: str, column: int, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert f"column {column}: " in str(caught.value) and what in str(caught.value) and caught.value.hint


def test_a_long_one_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 1000"):
        parse("max > 1s " + " " * 1000 + "x")


@given(st.text(alphabet="max(p99)=~'\"<>%, andforover0123456789smrstate\n\t", max_size=60))
def test_any_text_is_a_trigger_or_refused(text: str) -> None:
    try:
        assert parse(text).conditions
    except UsageError as error:
        assert "column" in str(error)


@pytest.mark.parametrize(("text", "for_ns", "conditions"), [
    ("deadlock", 0, 1), ("deadlock for 10s", 10_000_000_000, 1), ("deadlock and max > 1s", 0, 2), ("deadlock >= 3", 0, 1),
])
def test_a_deadlock_needs_no_value(text: str, for_ns: int, conditions: int) -> None:
    found = parse(text)
    assert (found.for_ns, len(found.conditions)) == (for_ns, conditions)
    assert found.conditions[0].holds(3) and not found.conditions[0].holds(0)


@pytest.mark.parametrize("text", ["deadlock 5", "max", "deadlock >", "deadlock(reason=x)", "goroutines for 5s"])
def test_others_do(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)
