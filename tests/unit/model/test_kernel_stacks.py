"""Why a thread sleeps, by the names on its kernel stack: stacks as Linux 6.18 had them."""

from __future__ import annotations

import pytest

from gotrace.model.kernelstacks import MEMORY_LIMIT, PAGE_FAULT, PROBE, STOPPED, cause, is_fault

LOCK = ("schedule", "schedule_preempt_disabled", "rwsem_down_read_slowpath", "down_read")


@pytest.mark.parametrize(("names", "why", "fault"), [
    ((*LOCK, "find_active_uprobe_rcu", "uprobe_notify_resume", "irqentry_exit_to_user_mode", "asm_exc_int3"), PROBE, False),
    ((*LOCK, "lock_mm_and_find_vma", "do_user_addr_fault", "exc_page_fault", "asm_exc_page_fault"), PAGE_FAULT, True),
    (("schedule", "do_signal_stop", "get_signal", "uprobe_notify_resume", "irqentry_exit_to_user_mode", "asm_exc_int3"), STOPPED, False),
    (("schedule_timeout", "mem_cgroup_handle_over_high", "exc_page_fault", "asm_exc_page_fault"), MEMORY_LIMIT, True),
    ((*LOCK, "exit_to_user_mode_loop"), "", False),
    ((), "", False),
])
def test_the_cause_of_a_sleep(names: tuple[str, ...], why: str, fault: bool) -> None:
    assert cause(names) == why
    assert is_fault(names) == fault
