/* The probes on the Go scheduler. */

static __always_inline void learn_process(struct config *c)
{
	/* The kernel's own number of the process, which the tracepoints need: a uprobe runs in the process. */
	if (!c->tgid)
		c->tgid = bpf_get_current_pid_tgid() >> 32;
}

static __always_inline int start(u64 g, u32 kind)
{
	u64 now = bpf_ktime_get_ns();
	struct config *c = configuration(now);
	if (!c)
		return 0;
	count(STAT_HITS_START);
	learn_process(c);
	struct goroutine *known = open_interval(c, g, kind, now);
	if (known && kind == KIND_PARK) {
		watch_parking(known, g);
		if (OBJECTS)
			note_waited(known, g);
	}
	return 0;
}

/* These run on g0 with the goroutine in AX (register ABI: the functions' first argument). */
int start_park(struct pt_regs *ctx) { return start(ctx->ax, KIND_PARK); }
int start_gosched(struct pt_regs *ctx) { return start(ctx->ax, KIND_GOSCHED); }
int start_yield(struct pt_regs *ctx) { return start(ctx->ax, KIND_YIELD); }
int start_preempt_park(struct pt_regs *ctx) { return start(ctx->ax, KIND_PREEMPT_PARK); }
int start_exit_syscall(struct pt_regs *ctx) { return start(ctx->ax, KIND_EXIT_SYSCALL); }

/* Probe set "gopark": on the goroutine itself (R14 = g), at the jbe of the stack check. If that branch is taken, the
 * stack grows and the function starts again from its entry: this hit must not count. */
int start_gopark(struct pt_regs *ctx)
{
	if (ctx->flags & (EFLAGS_CF | EFLAGS_ZF))
		return 0;
	return start(ctx->r14, KIND_PARK);
}

/* Probe set "schedule": the goroutine that this thread last resumed has left it, in one way or another. */
int start_schedule(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	struct config *c = configuration(now);
	if (!c)
		return 0;
	count(STAT_HITS_START);
	learn_process(c);
	u64 thread = (u32)bpf_get_current_pid_tgid();
	u64 *g = last_g.lookup(NARROW(thread));
	if (g && *g) {
		open_interval(c, *g, KIND_SCHEDULE, now);
		*g = 0;
	}
	return 0;
}

/* Mode lean: the current thread has turned away from the goroutine that it resumed last. Unless it was resumed elsewhere since, the
 * goroutine left its CPU some time before. */
static __always_inline void left_thread(u64 thread, u64 now)
{
	u64 *last = last_g.lookup(NARROW(thread));
	if (!last || !*last)
		return;
	u64 g = *last;
	struct goroutine *state = goroutines.lookup(&g);
	if (state && state->thread == thread && !state->start_ns)
		leave_cpu(state, KIND_SCHEDULE, now);
	*last = 0;
}

static __always_inline void resumed_on_thread(u64 g)
{
	u64 thread = (u32)bpf_get_current_pid_tgid();
	u64 *last = last_g.lookup(NARROW(thread));
	if (!last) {
		if (last_g.update(NARROW(thread), &g))
			count(STAT_GOROUTINE_TABLE_FULL);
		return;
	}
	*last = g;
}

/* ---- ends -------------------------------------------------------------------------------------------------------- */

/* The goroutine runs since `since`; 0: outside the window, where that does not matter. Its interval is closed last: until then a
 * tracepoint in between leaves the goroutine alone. */
static __always_inline void resumed(struct goroutine *state, u64 since)
{
	*(volatile u64 *)&state->run_since = since;
	state->slice_base = state->run_ns;
	*(volatile u64 *)&state->start_ns = 0;
}

/* How much of [from, ready) lies after the moment at which g, which is or was parked, was due to be woken. time.Sleep leaves it in the g
 * (runtime/time.go: timeSleep, Go 1.23; CLOCK_MONOTONIC). It is 0 for the scavenger, which sleeps by a timer of its own. `parked`: this
 * is known to be a park; if not, reason and moment may be those of an earlier park. */
static __always_inline u64 overdue(struct scratch *s, u64 g, u32 parked, u64 from, u64 ready)
{
	if (!G_SLEEPWHEN || s->g[G_WAITREASON] != SLEEP)
		return 0;
	u64 due = user_word(g + G_SLEEPWHEN);
	if (!due || due >= ready)
		return 0;
	if (due > from)
		return ready - due;
	return parked ? ready - from : 0;
}

/* The goroutine g resumes. */
static __always_inline int end(struct config *c, u64 g, u64 now)
{
	u32 drain = draining(c, now);
	if (LEAN && !drain)
		left_thread((u32)bpf_get_current_pid_tgid(), now); /* possibly g itself */
	struct goroutine *state = goroutines.lookup(&g);
	u32 unknown = !state;
	asm volatile("" : "+r"(unknown)); /* otherwise the compiler computes with the pointer, which the verifier forbids */

	if (BY_THREAD && !drain)
		resumed_on_thread(g);
	if (!state) {
		struct goroutine new = {};
		state = row_of(g, &new);
		if (!state)
			return 0; /* when it left the CPU is not known */
	}
	if (LEAN)
		state->thread = bpf_get_current_pid_tgid();
	u64 from = state->start_ns;
	u64 ran_since = state->run_since;
	struct scratch *s = acquire_scratch();
	if (!s) {
		count(STAT_INTERVAL_LOST);
		resumed(state, drain ? 0 : now);
		return 0;
	}
	foresee(s, state);
	if (bpf_probe_read_user(s->g, G_READ, (void *)g)) {
		count(STAT_INTERVAL_LOST);
		goto resumed;
	}
	/* A goroutine that has never run has no frame pointer yet (proc.go: newproc1 clears sched). If an interval was open,
	 * it belonged to the g's previous goroutine, which ended while stopped (coro.go: coroexit). */
	u32 first = !word(s, G_SCHED_BP);
	if (first && unknown && !COROSWITCH && sees_creation()) {
		from = c->window_start_ns; /* created before the window, and runnable since */
		state->kind = KIND_CREATED;
	} else if (first && !(from && state->kind == KIND_CREATED)) {
		count(from ? STAT_FORGOTTEN : STAT_CREATED);
		state->run_ns = state->off_ns = state->slice_base = 0;
		state->spans = 0;
		state->flags = GOROUTINE_BORN;
		if (WANTED)
			labels_of(s, g, 1);
		goto resumed;
	}
	volatile struct pending *p = &s->pending;
	u32 kind = state->kind;
	p->in_progress = first && unknown;
	if (!from && FROM_READY) {
		/* Before the window, or by a switch of coroutines. */
		if (!drain && !unknown && !(state->flags & GOROUTINE_UNSURE))
			count(STAT_END_WHILE_RUNNING);
		state->flags &= ~GOROUTINE_UNSURE;
		goto resumed;
	}
	if (!from) {
		if (unknown) {
			from = c->window_start_ns; /* off the CPU since before the window */
		} else if (state->flags & GOROUTINE_UNSURE) {
			from = ran_since ? ran_since : c->window_start_ns;
		} else {
			if (!drain)
				count(LEAN ? STAT_START_UNSEEN : STAT_END_WHILE_RUNNING);
			goto resumed;
		}
		kind = KIND_BEFORE;
	}
	state->flags &= ~(GOROUTINE_UNSURE | GOROUTINE_ENDED);
	if (drain || kind == KIND_BEFORE)
		p->in_progress = 1;
	if (drain)
		now = c->window_end_ns;
	if (now < from)
		now = from;
	state->off_ns += now - from;
	resumed(state, drain ? 0 : now);
	/* [from, data) waiting, [data, ready) for the netpoller, [ready, now) for a P. */
	u64 ready = state->ready_ns, data = state->data_ns;
	if (ready < from || ready > now)
		ready = now;
	if (data < from || data > ready)
		data = ready;
	p->part_ns[PART_MAIN] = data - from;
	p->part_ns[PART_NETPOLL] = ready - data;
	p->part_ns[PART_RUNNABLE] = now - ready;
	p->part_ns[PART_RUNQUEUE] = 0;
	u64 stopped = stopped_until(now), stopped_at_ready = ready < now ? state->stopped_at_ready : stopped;
	u64 stopped_at_data = data < ready ? state->stopped_at_data : stopped_at_ready;
	u64 stopped_at_start = kind == KIND_BEFORE ? 0 : state->stopped_at_start;
	p->stopped_ns[PART_MAIN] = stopped_between(stopped_at_start, stopped_at_data, data - from);
	p->stopped_ns[PART_NETPOLL] = stopped_between(stopped_at_data, stopped_at_ready, ready - data);
	p->stopped_ns[PART_RUNNABLE] = stopped_between(stopped_at_ready, stopped, now - ready);
	p->stopped_ns[PART_RUNQUEUE] = 0;
	u64 halted = halted_until(now), halted_at_ready = ready < now ? state->halted_at_ready : halted;
	u64 halted_at_start = kind == KIND_BEFORE ? 0 : state->halted_at_start;
	p->halted_ns[PART_MAIN] = stopped_between(halted_at_start, halted_at_ready, data - from);
	p->halted_ns[PART_NETPOLL] = 0;
	p->halted_ns[PART_RUNNABLE] = stopped_between(halted_at_ready, halted, now - ready);
	p->halted_ns[PART_RUNQUEUE] = 0;
	p->carried_ns = 0;
	p->piece_ns = p->part_ns[PART_MAIN];
	p->depth = word(s, G_STACK_HI) - word(s, G_SCHED_SP);
	p->last_part = PART_RUNQUEUE;
	p->tid = bpf_get_current_pid_tgid();
	p->long_run_ns = state->long_run_ns;
	p->margin_ns = LEAN && kind == KIND_SCHEDULE ? state->margin_ns : 0;
	p->g = g;
	p->from = from;
	p->goid = word(s, G_GOID);
	p->kernel_stack = 0;
	p->syscall = 0;
	p->object = state->object;
	if (OBJECTS && kind == KIND_BEFORE && !state->object && from == c->window_start_ns) {
		u64 *before = waited_before.lookup(&g);
		p->object = before ? *before : 0;
	}
	p->waker = state->waker;
	p->waker_goid = state->waker_goid;

	/* If the start, or its kind, was not seen: gopark is the leaf of every park. Where gopark is inlined, the leaf belongs to
	 * another function; user space, which has the inline trees, then decides, and needs the reason. */
	if (kind == KIND_BEFORE || kind == KIND_SCHEDULE) {
		/* Not if it was preempted in gopark's own prologue. */
		if (word(s, G_SCHED_PC) - GOPARK_LO < GOPARK_HI - GOPARK_LO && called_mcall(word(s, G_SCHED_PC)))
			kind = KIND_PARK;
	}
	p->kind = kind;
	p->reason = kind == KIND_PARK || kind == KIND_BEFORE || kind == KIND_SCHEDULE ? s->g[G_WAITREASON] : 0;
	p->late_ns = kind == KIND_PARK || kind == KIND_BEFORE || kind == KIND_SCHEDULE ? overdue(s, g, kind == KIND_PARK, from, from + p->part_ns[PART_MAIN]) : 0;
	/* In any case: a set of labels at the address of an earlier one is taken for that one if this goroutine was not seen without it. */
	p->labels = WANTED ? labels_of(s, g, first) : 0;
	p->recorded = admit(s);
	p->stack = 0;
	if (p->recorded && !FROM_READY) {
		u64 stack = walk_resuming(s, p->kind);
		remember_place(s, state);
		if (state->last_stack != stack)
			state->last_stack = keep_stack(s, stack);
		p->stack = stack;
	}
	if (FOLLOWED || p->recorded)
		commit(s, state, 0);
	goto out;
resumed:
	resumed(state, drain ? 0 : now);
out:
	state->ready_ns = state->data_ns = state->waker = state->waker_goid = state->object = state->arrival = 0;
	state->long_run_ns = 0;
	release_scratch(s);
	return 0;
}

/* Loaded up to twice, with COROSWITCH 0 for runtime.execute (AX = the g that runs next) and 1 for runtime.coroswitch_m
 * (AX = the g that stops): a coroutine switch bypasses the scheduler, so this one hit closes the interval of the other
 * side, which waits in coro.gp (runtime/coro.go), and opens the interval of this side. */
int end_interval(struct pt_regs *ctx)
{
	u64 g = ctx->ax, other = 0, now = bpf_ktime_get_ns();
	struct config *c = configuration(now);
	if (!c)
		return 0;
	learn_process(c);
	if (COROSWITCH) {
		count(STAT_HITS_START);
		open_interval(c, g, KIND_COROSWITCH, now);
		if (bpf_probe_read_user(&other, 8, (void *)(g + G_COROARG)) || bpf_probe_read_user(&other, 8, (void *)other)) {
			count(STAT_INTERVAL_LOST);
			return 0;
		}
		g = other;
	} else if (!draining(c, now)) {
		count(STAT_HITS_END);
	}
	return end(c, g, now);
}
