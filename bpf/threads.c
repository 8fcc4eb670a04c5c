/* What the kernel does with the threads underneath: a goroutine that Go takes for running may be blocked in a system call
 * or wait for a CPU. Raw tracepoints. */

/* User space found the thread asleep before the window opened. Where it now comes from tells whether it has moved on since, and slept
 * elsewhere. */
static __always_inline u32 is_stale(struct thread *t, u64 task)
{
	u64 g = t->g, sp = user_stack_pointer(task);
	struct wait *w = t->kind == KIND_SYSCALL || t->kind == KIND_FAULT ? waits.lookup(&g) : NULL;
	return w && sp && (!(w->flags & WAIT_BEFORE) || w->sp != sp);
}

/* The thread gets a CPU again, in the context of the previous one. Or it leaves that CPU although it was not seen to get it: a
 * sandbox may keep its own tasks from running other programs, and when such a task hands over its CPU, that is not seen.
 * The CPU time that the thread has used since then tells when it got the CPU. */
static __always_inline void enter(struct config *c, u64 task, u64 now, u32 leaves)
{
	struct thread *t;
	u64 thread = (u32)kernel_word(task + K_TASK_PID);
	if (leaves || draining(c, now)) {
		t = threads.lookup(NARROW(thread));
	} else {
		t = thread_row(thread);
		if (t) {
			if (t->flags & THREAD_QUEUED && !t->out_ns) {
				/* It had no CPU then: otherwise it would have been seen leaving it. */
				struct goroutine new = {.flags = GOROUTINE_UNSURE};
				if (row_of(t->g, &new))
					t->out_ns = c->window_start_ns;
			}
			t->flags &= ~THREAD_QUEUED;
			if (t->flags & THREAD_BEFORE && t->out_ns && is_stale(t, task)) {
				t->flags &= ~THREAD_BEFORE;
				t->out_ns = 0;
			}
			t->first_sp = t->in_ns || t->out_ns ? 0 : user_stack_pointer(task);
			t->in_ns = now;
			if (t->flags & THREAD_HALTED)
				end_halt(c, t, now);
		}
	}
	if (!t || !t->out_ns)
		return;
	u64 from = t->out_ns, woken = t->woken_ns, g = t->g;
	if (leaves) {
		if (!t->ran_ns)
			return; /* noted by user space when it read what was blocked as the trace began, and its CPU time is not known */
		count(STAT_SWITCH_UNSEEN);
		now -= kernel_word(task + K_TASK_RAN) - t->ran_ns;
		if (now < woken)
			now = woken;
	}
	u32 drain = draining(c, now);
	t->out_ns = 0;
	struct goroutine *state = goroutines.lookup(&g);
	if (!state)
		return;
	if (drain)
		now = c->window_end_ns;
	if (from < c->window_start_ns)
		from = c->window_start_ns; /* noted by user space before it opened the window */
	if (now < from || now > from + (1ULL << 62))
		now = from;
	if (!woken || woken > now)
		woken = now;
	if (woken < from)
		woken = from; /* the waker read the clock before we did */
	u32 preempted = t->kind == KIND_CPU || t->kind == KIND_THROTTLED;
	if (leaves && t->flags & THREAD_BEFORE && now == from) {
		/* By its CPU time it has run since the window began: it had moved on before that. */
		if (!state->start_ns && !state->run_since)
			state->run_since = now;
		return;
	}
	if (!state->start_ns && !state->run_since) { /* if not, it has since left this thread, unseen as above */
		state->run_since = drain ? 0 : now;
		if (!preempted)
			state->slice_base = state->run_ns;
	}
	state->off_ns += now - from;
	struct scratch *s = acquire_scratch();
	if (!s) {
		count(STAT_INTERVAL_LOST);
		return;
	}
	volatile struct pending *p = &s->pending;
	u64 stopped = stopped_until(now), stopped_at_woken = woken < now ? t->stopped_at_woken : stopped;
	if (preempted)
		stopped_at_woken = stopped;
	p->stopped_ns[PART_MAIN] = stopped_between(t->stopped_at_out, stopped_at_woken, now - from);
	p->stopped_ns[PART_NETPOLL] = p->stopped_ns[PART_RUNNABLE] = 0;
	p->halted_ns[PART_NETPOLL] = p->halted_ns[PART_RUNNABLE] = p->halted_ns[PART_RUNQUEUE] = 0;
	p->stopped_ns[PART_RUNQUEUE] = stopped_between(stopped_at_woken, stopped, now - from);
	p->last_part = t->throttled ? PART_THROTTLED : PART_RUNQUEUE;
	p->long_run_ns = t->long_run_ns;
	p->margin_ns = p->late_ns = 0;
	p->part_ns[PART_MAIN] = preempted ? now - from : woken - from;
	p->part_ns[PART_NETPOLL] = 0;
	p->part_ns[PART_RUNNABLE] = 0;
	p->part_ns[PART_RUNQUEUE] = preempted ? 0 : now - woken;
	p->g = g;
	p->from = from;
	p->goid = t->goid;
	p->tid = thread;
	p->kernel_stack = t->kernel_stack;
	p->syscall = t->syscall;
	p->object = t->object;
	p->waker = p->waker_goid = 0;
	p->kind = t->kind;
	p->reason = 0;
	u32 kind = t->kind, flags = t->flags;
	struct wait *w = (kind == KIND_SYSCALL || kind == KIND_FAULT) && !(flags & THREAD_HANDLER) ? waits.lookup(&g) : NULL;
	u32 continues = w && flags & THREAD_CONTINUES, waited = w ? w->flags : 0;
	u64 main_ns = p->part_ns[PART_MAIN];
	p->piece_ns = main_ns;
	p->depth = ~0ULL; /* not known */
	p->halted_ns[PART_MAIN] = stopped_between(t->halted_at_out, halted_until(now), main_ns);
	p->carried_ns = 0;
	p->in_progress = drain || flags & THREAD_BEFORE;
	if (continues) {
		p->in_progress = drain || waited & WAIT_BEFORE;
		if (waited & WAIT_COUNTED) {
			p->carried_ns = w->ns;
			p->in_progress = drain && !(waited & WAIT_BEFORE);
		} else {
			p->part_ns[PART_MAIN] = w->ns + main_ns; /* with the part that was too short by itself */
		}
	}
	p->event_from = from;
	p->event_ns = p->part_ns[PART_MAIN];
	p->event_flags = 0;
	if (STREAM && w) {
		/* A wait that a stop, or anything else that takes long, has split is two intervals of a timeline. */
		p->event_flags = EVENT_MAY_GO_ON;
		if (continues && from - w->last_ns < SAME_WAIT_NS) {
			p->event_flags = waited & WAIT_COUNTED ? EVENT_MAY_GO_ON | EVENT_GOES_ON : EVENT_MAY_GO_ON;
			p->event_from = w->first_ns;
			p->event_ns = w->part_ns + main_ns;
		}
		w->first_ns = p->event_from;
		w->part_ns = p->event_ns;
		w->last_ns = from + main_ns;
	}
	if (w) {
		w->ns += main_ns;
		if (!leaves)
			w->flags = w->flags & ~(WAIT_INTERRUPTED | WAIT_SIGNALLED) | signalled(w, task); /* a signal sets it after this; if the end was not seen, it already has */
	}
	p->stack = t->stack;
	p->labels = WANTED ? known_labels(g) : 0;
	p->recorded = admit(s);
	if (w && p->recorded && p->weight == 1)
		w->flags |= WAIT_COUNTED;
	if (w && !p->recorded && MIN_BLOCK_NS && w->ns < MIN_BLOCK_NS)
		w->flags |= WAIT_SHORT;
	if (FOLLOWED || p->recorded)
		commit(s, state, 1);
	release_scratch(s);
}

/* The configuration, once the target's own number is known. These programs run for every thread of the machine: all checks that
 * need no clock come before reading it. */
static __always_inline struct config *known_target(void)
{
	u64 zero = 0;
	struct config *c = config.lookup(NARROW(zero));
	return c && c->phase == PHASE_TRACE && c->tgid ? c : NULL;
}

/* Raw tracepoint sched_switch: preempt, prev, next. */
int on_switch(struct bpf_raw_tracepoint_args *ctx)
{
	struct config *c = known_target();
	if (!c)
		return 0;
	u64 tgid = c->tgid;
	u32 leaves = bpf_get_current_pid_tgid() >> 32 == tgid;
	u32 enters = (u32)kernel_word(ctx->args[2] + K_TASK_TGID) == tgid;
	if (!leaves && !enters)
		return 0;
	u64 now = bpf_ktime_get_ns();
	if (now < c->window_start_ns)
		return 0;
	u64 tasks[2] = {leaves ? ctx->args[1] : 0, enters ? ctx->args[2] : 0};
	/* A loop, so that the verifier's work and the instructions are those of one. */
#pragma clang loop unroll(disable)
	for (u32 which = 0; which < 2; which++) {
		u64 task = tasks[which & 1];
		if (task) {
			if (GOVERNED)
				count(STAT_SWITCHES);
			if (THREADS)
				enter(c, task, now, !which);
		}
	}
	if (leaves && !draining(c, now))
		leave(ctx, c, now);
	return 0;
}

/* Raw tracepoint signal_deliver: the thread that a signal is meant for takes it. */
int on_signal(struct bpf_raw_tracepoint_args *ctx)
{
	struct config *c = known_target();
	u64 thread = (u32)bpf_get_current_pid_tgid();
	if (!THREADS || !c || bpf_get_current_pid_tgid() >> 32 != c->tgid)
		return 0;
	struct thread *t = threads.lookup(NARROW(thread));
	if (!t || !t->g)
		return 0;
	struct scratch *s = acquire_scratch();
	if (!s)
		return 0;
	if (!user_registers(&s->regs, bpf_get_current_task()))
		note_interruption(t->g, &s->regs);
	release_scratch(s);
	return 0;
}

/* Raw tracepoint sched_waking: task. */
int on_waking(struct bpf_raw_tracepoint_args *ctx)
{
	struct config *c = known_target();
	u64 task = ctx->args[0];
	if (!c || (u32)kernel_word(task + K_TASK_TGID) != c->tgid)
		return 0;
	u64 thread = (u32)kernel_word(task + K_TASK_PID);
	struct thread *t = threads.lookup(NARROW(thread));
	if (!t || t->woken_ns)
		return 0;
	if (!t->out_ns) {
		t->flags &= ~THREAD_QUEUED; /* it went to sleep after it was asked, before the window: it did not wait for a CPU */
		return 0;
	}
	u64 now = bpf_ktime_get_ns();
	if (now < c->window_start_ns)
		return 0;
	t->stopped_at_woken = stopped_until(now);
	t->throttled = throttled(task, (u32)kernel_word(task + K_TASK_WAKE_CPU));
	t->woken_ns = now;
	return 0;
}
