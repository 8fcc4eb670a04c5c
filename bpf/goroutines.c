/* The probes on the Go scheduler. */

static __always_inline void stop_running(struct goroutine *known, u64 now)
{
	if (known->run_since && now > known->run_since) {
		known->run_ns += now - known->run_since;
		count_ns(STAT_RUN_NS, now - known->run_since);
	}
	known->run_since = 0;
}

/* ---- starts ------------------------------------------------------------------------------------------------------ */

static __always_inline void open_interval(struct config *c, u64 g, u32 kind, u64 now)
{
	struct goroutine *known = goroutines.lookup(&g);
	u32 drain = draining(c, now);
	if (drain)
		now = c->window_end_ns; /* only remember that the goroutine was running at the end of the window */
	if (known) {
		if (drain) {
			stop_running(known, now);
			return;
		}
		if (known->start_ns)
			count(STAT_START_WHILE_STOPPED);
		/* First of all, so that the tracepoints leave this goroutine alone: newer kernels may preempt us here. If they
		 * have done so since we looked at the clock, the goroutine has been off its CPU for that and back. */
		*(volatile u64 *)&known->start_ns = now;
		if (*(volatile u64 *)&known->run_since > now)
			known->start_ns = now = bpf_ktime_get_ns();
		stop_running(known, now);
		known->kind = kind;
		known->flags &= ~GOROUTINE_UNSURE;
		return;
	}
	/* Seen for the first time: it has been running since before the window. */
	struct goroutine new = {.start_ns = drain ? 0 : now, .kind = kind};
	if (now > c->window_start_ns) {
		new.run_ns = now - c->window_start_ns;
		count_ns(STAT_RUN_NS, new.run_ns);
	}
	if (!goroutines.insert(&g, &new))
		return;
	/* A tracepoint was faster: we were preempted in between. An update would give the row a new address. */
	known = goroutines.lookup(&g);
	if (!known) {
		count(STAT_GOROUTINE_TABLE_FULL);
		return;
	}
	known->kind = kind;
	known->flags = 0;
	if (!drain)
		known->start_ns = known->run_since > now ? bpf_ktime_get_ns() : now;
	stop_running(known, drain ? now : known->start_ns);
}

static __always_inline void learn_process(struct config *c)
{
	/* The kernel's own number of the process, which the tracepoints need: a uprobe runs in it. */
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
	open_interval(c, g, kind, now);
	return 0;
}

/* These run on g0 with the goroutine in AX (register ABI: the functions' first argument). */
int start_park(struct pt_regs *ctx) { return start(ctx->ax, KIND_PARK); }
int start_gosched(struct pt_regs *ctx) { return start(ctx->ax, KIND_GOSCHED); }
int start_yield(struct pt_regs *ctx) { return start(ctx->ax, KIND_YIELD); }
int start_preempt_park(struct pt_regs *ctx) { return start(ctx->ax, KIND_PREEMPT_PARK); }
int start_exit_syscall(struct pt_regs *ctx) { return start(ctx->ax, KIND_EXIT_SYSCALL); }

/* Probe set "gopark": on the goroutine itself (R14 = g), at the jbe of the stack check. If that branch is taken the
 * stack grows and the function runs again from its entry: this hit must not count. */
int start_gopark(struct pt_regs *ctx)
{
	if (ctx->flags & (EFLAGS_CF | EFLAGS_ZF))
		return 0;
	return start(ctx->r14, KIND_PARK);
}

/* Probe set "schedule": the goroutine that this thread last resumed has left it, whichever way. */
int start_schedule(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	struct config *c = configuration(now);
	if (!c)
		return 0;
	count(STAT_HITS_START);
	learn_process(c);
	u32 thread = bpf_get_current_pid_tgid();
	u64 *g = last_g.lookup(&thread);
	if (g && *g) {
		open_interval(c, *g, KIND_SCHEDULE, now);
		*g = 0;
	}
	return 0;
}

static __always_inline void resumed_on_thread(u64 g)
{
	u32 thread = bpf_get_current_pid_tgid();
	u64 *last = last_g.lookup(&thread);
	if (!last) {
		if (last_g.update(&thread, &g))
			count(STAT_GOROUTINE_TABLE_FULL);
		return;
	}
	*last = g;
}

/* ---- in between: who makes it runnable, and when ----------------------------------------------------------------- */

/* The goroutine's entry if it is off the CPU and not yet known to be runnable. One that no probe has seen has been off the
 * CPU since before the window. */
static __always_inline struct goroutine *waiting(struct config *c, u64 g)
{
	struct goroutine *state = goroutines.lookup(&g);
	if (!state) {
		struct goroutine new = {.start_ns = c->window_start_ns, .kind = KIND_BEFORE};
		goroutines.update(&g, &new);
		state = goroutines.lookup(&g);
	}
	return state && state->start_ns && !state->ready_ns ? state : NULL;
}

/* runtime.ready: AX = the g that becomes runnable, R14 = g0 of the thread that does it. */
int mark_ready(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	struct config *c = configuration(now);
	struct goroutine *state;
	if (!c || draining(c, now))
		return 0;
	count(STAT_HITS_READY);
	u64 g = ctx->ax, g0 = ctx->r14;
	state = waiting(c, g);
	if (!state)
		return 0;
	state->ready_ns = now;
	struct scratch *s = acquire_scratch();
	if (!s) {
		count(STAT_WAKER_LOST);
		return 0;
	}
	/* The scheduler itself: a timer that is due, a thread that looks for work. Its frames are on g0. */
	u64 current = user_word(user_word(g0 + G_M) + M_CURG), hash, pc = user_word(ctx->sp), sp = ctx->sp, fp = ctx->bp;
	u64 lo = user_word(g0 + G_STACK_LO), hi = user_word(g0 + G_STACK_HI);
	if (current) {
		/* systemstack has saved where the goroutine went onto g0 (runtime/asm_amd64.s: gosave_systemstack_switch). */
		if (bpf_probe_read_user(s->g, G_READ, (void *)current)) {
			count(STAT_WAKER_LOST);
			goto out;
		}
		state->waker_goid = word(s, G_GOID);
		pc = word(s, G_SCHED_PC);
		sp = word(s, G_SCHED_SP);
		fp = word(s, G_SCHED_BP);
		lo = word(s, G_STACK_LO);
		hi = word(s, G_STACK_HI);
	}
	hash = walk(&s->stack, pc, sp, fp, lo, hi, KIND_WAKER, WALK_WAKER);
	keep_stack(s, hash);
	state->waker = hash;
out:
	release_scratch(s);
	return 0;
}

static __always_inline void harvested(struct config *c, u64 descriptor, u64 waiter, u64 now)
{
	u64 g = user_word(waiter), sk = 0;
	if (g <= 2) /* runtime/netpoll.go: pdNil, pdReady, pdWait */
		return;
	struct goroutine *state = waiting(c, g);
	if (!state)
		return;
	state->ready_ns = now;
	if (KERNEL_STAGE) {
		u32 fd = user_word(descriptor + PD_FD);
		state->object = object_of(file_of(bpf_get_current_task(), fd), fd, &sk);
		if (sk) {
			u64 *when = watched.lookup(&sk), none = 0;
			if (when) {
				state->data_ns = *when;
				*when = 0;
			} else if (watched.update(&sk, &none)) {
				count(STAT_OBJECT_TABLE_FULL);
			}
		}
	}
}

/* runtime.netpollready: BX = pollDesc, CX = 'r', 'w' or their sum. runtime.ready is not called for what it finds. */
int mark_netpoll(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	struct config *c = configuration(now);
	if (!c || draining(c, now))
		return 0;
	count(STAT_HITS_READY);
	u64 descriptor = ctx->bx;
	u32 mode = ctx->cx;
	/* First the reader, then the writer. */
#pragma clang loop unroll(disable)
	for (u32 writer = 0; writer < 2; writer++)
		if (mode != (writer ? 'r' : 'w'))
			harvested(c, descriptor, descriptor + (writer ? PD_WG : PD_RG), now);
	return 0;
}

/* runtime.gdestroy, before Go 1.22 goexit0: AX = the g whose goroutine is over. */
int mark_exit(struct pt_regs *ctx)
{
	u64 g = ctx->ax, now = bpf_ktime_get_ns();
	struct config *c = configuration(now);
	if (!c)
		return 0;
	count(STAT_HITS_EXIT);
	struct goroutine *state = goroutines.lookup(&g);
	if (state)
		stop_running(state, draining(c, now) ? c->window_end_ns : now);
	return 0;
}

/* ---- ends -------------------------------------------------------------------------------------------------------- */

/* The goroutine g resumes. */
static __always_inline int end(struct config *c, u64 g, u64 now)
{
	struct goroutine *state = goroutines.lookup(&g);
	u32 unknown = !state, drain = draining(c, now);

	if (BY_THREAD && !drain)
		resumed_on_thread(g);
	if (!state) {
		struct goroutine new = {};
		goroutines.update(&g, &new);
		state = goroutines.lookup(&g);
		if (!state) {
			/* Since when it was off the CPU can't be told. */
			count(STAT_GOROUTINE_TABLE_FULL);
			return 0;
		}
	}
	u64 from = state->start_ns;
	u64 ran_since = state->run_since;
	struct scratch *s = acquire_scratch();
	if (!s) {
		count(STAT_INTERVAL_LOST);
		state->start_ns = 0;
		state->run_since = drain ? 0 : now;
		return 0;
	}
	if (bpf_probe_read_user(s->g, G_READ, (void *)g)) {
		count(STAT_INTERVAL_LOST);
		goto resumed;
	}
	/* A goroutine that has never run has no frame pointer yet (proc.go: newproc1 clears sched). If an interval was open,
	 * it belonged to the one that had this g before and ended while stopped (coro.go: coroexit). */
	if (!word(s, G_SCHED_BP)) {
		count(from ? STAT_FORGOTTEN : STAT_CREATED);
		state->run_ns = state->off_ns = 0;
		state->flags = GOROUTINE_BORN;
		goto resumed;
	}
	volatile struct pending *p = &s->pending;
	u32 kind = state->kind;
	if (!from) {
		if (unknown) {
			from = c->window_start_ns; /* off the CPU since before the window */
		} else if (state->flags & GOROUTINE_UNSURE) {
			from = ran_since ? ran_since : c->window_start_ns;
		} else {
			if (!drain)
				count(STAT_END_WHILE_RUNNING);
			goto resumed;
		}
		kind = KIND_BEFORE;
	}
	state->flags &= ~GOROUTINE_UNSURE;
	p->in_progress = drain || kind == KIND_BEFORE;
	if (drain)
		now = c->window_end_ns;
	if (now < from)
		now = from;
	state->off_ns += now - from;
	state->start_ns = 0;
	state->run_since = drain ? 0 : now; /* running from here on, if inside the window */
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
	p->g = g;
	p->from = from;
	p->goid = word(s, G_GOID);
	p->kernel_stack = 0;
	p->syscall = 0;
	p->object = state->object;
	p->waker = state->waker;
	p->waker_goid = state->waker_goid;

	/* Where the start was not seen, or not its kind: gopark is the leaf of every park. */
	if (kind == KIND_BEFORE || kind == KIND_SCHEDULE) {
		if (word(s, G_SCHED_PC) - GOPARK_LO < GOPARK_HI - GOPARK_LO)
			kind = KIND_PARK;
	}
	p->kind = kind;
	p->reason = kind == KIND_PARK ? s->g[G_WAITREASON] : 0;
	if (!admit(s))
		goto out;
	u64 stack = walk_resuming(s, p->kind);
	keep_stack(s, stack);
	commit(s, state, stack);
	goto out;
resumed:
	state->start_ns = 0;
	state->run_since = drain ? 0 : now;
out:
	state->ready_ns = state->data_ns = state->waker = state->waker_goid = state->object = 0;
	release_scratch(s);
	return 0;
}

/* Loaded up to twice, with COROSWITCH 0 for runtime.execute (AX = the g that runs next) and 1 for runtime.coroswitch_m
 * (AX = the g that stops): a coroutine switch goes past the scheduler, so this one hit closes the interval of the other
 * side, which waits in coro.gp (runtime/coro.go), and opens that of this one. */
int end_interval(struct pt_regs *ctx)
{
	u64 g = ctx->ax, coro = 0, other = 0, now = bpf_ktime_get_ns();
	struct config *c = configuration(now);
	if (!c)
		return 0;
	learn_process(c);
	if (COROSWITCH) {
		count(STAT_HITS_START);
		open_interval(c, g, KIND_COROSWITCH, now);
		if (bpf_probe_read_user(&coro, 8, (void *)(g + G_COROARG)) || bpf_probe_read_user(&other, 8, (void *)coro)) {
			count(STAT_INTERVAL_LOST);
			return 0;
		}
		g = other;
	} else if (!draining(c, now)) {
		count(STAT_HITS_END);
	}
	return end(c, g, now);
}
