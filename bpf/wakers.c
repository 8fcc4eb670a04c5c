/* Between an interval's start and its end: what makes the goroutine runnable, and when. */

/* The goroutine's row if it is off the CPU and not yet known to be runnable. A goroutine that no probe has seen has been off the
 * CPU since before the window. */
static __always_inline struct goroutine *waiting(struct config *c, u64 g)
{
	struct goroutine new = {.start_ns = c->window_start_ns, .kind = KIND_BEFORE}, *state = row_of(g, &new);
	return state && state->start_ns && !state->ready_ns ? state : NULL;
}

/* Probe set "ready": the goroutine becomes runnable, and its interval begins. When it left the CPU was not seen. */
static __always_inline void becomes_runnable(u64 g, u64 now)
{
	struct goroutine new = {}, *state = row_of(g, &new);
	if (!state)
		return;
	if (state->start_ns)
		count(STAT_START_WHILE_STOPPED);
	state->stopped_at_start = stopped_until(now);
	state->halted_at_start = halted_until(now);
	state->run_since = 0;
	state->kind = KIND_READY;
	state->flags &= ~GOROUTINE_UNSURE;
	state->start_ns = now;
}

/* A goroutine is created: its g is new, or belonged to another goroutine that has ended. */
static __always_inline struct goroutine *created(u64 g, u64 now)
{
	struct goroutine new = {}, *state = row_of(g, &new);
	if (!state)
		return NULL;
	if (state->start_ns)
		count(STAT_FORGOTTEN); /* coro.go: coroexit */
	state->ready_ns = state->data_ns = state->object = state->arrival = state->waker = state->waker_goid = 0;
	state->spans = 0;
	state->run_since = state->run_ns = state->off_ns = state->slice_base = state->long_run_ns = 0;
	state->stopped_at_start = stopped_until(now);
	state->halted_at_start = halted_until(now);
	state->kind = KIND_CREATED;
	state->flags = GOROUTINE_BORN;
	state->start_ns = now;
	return state;
}

/* m.curg of the thread with that g0. g0.m never changes, and is often the one that was last seen here: m, whose first field is
 * m.g0 (runtime/runtime2.go), then confirms it in the same read. */
static __always_inline u64 current_goroutine(struct scratch *s, u64 g0)
{
	if (M_CURG + 8 <= WINDOW && s->last_g0 == g0 && !bpf_probe_read_user(s->window, M_CURG + 8, (void *)s->last_m) &&
	    struct_word(s, 0) == g0)
		return struct_word(s, M_CURG);
	s->last_g0 = g0;
	s->last_m = user_word(g0 + G_M);
	return user_word(s->last_m + M_CURG);
}

/* Loaded twice. With AT_CREATION 0 at runtime.ready: AX = the g that becomes runnable, R14 = g0 of the thread that makes it so.
 * With AT_CREATION 1 at the call of runtime.runqput in runtime.newproc.func1, BX = the g of the new goroutine, or at the return
 * from runtime.newproc1, AX = that g. */
int mark_ready(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	struct config *c = configuration(now);
	struct goroutine *state;
	if (!c || draining(c, now))
		return 0;
	count(STAT_HITS_READY);
	u64 ax = *(volatile unsigned long *)&ctx->ax, bx = *(volatile unsigned long *)&ctx->bx; /* not a single load from a chosen address
	*/
	u64 g = AT_CREATION && !CREATED_IN_AX ? bx : ax, g0 = ctx->r14;
	if (AT_CREATION) {
		state = created(g, now);
		if (!state || FROM_READY)
			return 0;
	} else if (FROM_READY) {
		becomes_runnable(g, now);
		return 0;
	} else {
		state = waiting(c, g);
		if (!state)
			return 0;
		state->stopped_at_ready = stopped_until(now);
		state->halted_at_ready = halted_until(now);
		state->ready_ns = now;
	}
	struct scratch *s = acquire_scratch();
	if (!s) {
		count(STAT_WAKER_LOST);
		return 0;
	}
	/* The scheduler itself: a timer that is due, a thread that searches for work. Its frames are on g0. */
	u64 current = current_goroutine(s, g0), hash, pc, sp, fp, lo, hi;
	if (!current) {
		pc = user_word(ctx->sp);
		sp = ctx->sp + 8;
		fp = ctx->bp;
		lo = user_word(g0 + G_STACK_LO);
		hi = user_word(g0 + G_STACK_HI);
	} else {
		/* systemstack has saved where the goroutine switched to g0 (runtime/asm_amd64.s: gosave_systemstack_switch). */
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
	hash = walk(s, pc, sp, fp, lo, hi, KIND_WAKER, WALK_WAKER);
	if (state->last_waker != hash)
		state->last_waker = keep_stack(s, hash);
	state->waker = hash;
out:
	release_scratch(s);
	return 0;
}

static __always_inline void harvested(struct config *c, u64 descriptor, u64 g, u32 writer, u64 now)
{
	if (g <= 2) /* runtime/netpoll.go: pdNil, pdReady, pdWait */
		return;
	if (FROM_READY) {
		becomes_runnable(g, now);
		return;
	}
	struct goroutine *state = waiting(c, g);
	if (!state)
		return;
	state->stopped_at_ready = stopped_until(now);
	state->halted_at_ready = halted_until(now);
	state->ready_ns = now;
	if (!KERNEL_STAGE)
		return;
	struct scratch *s;
	if (!state->object && (s = acquire_scratch())) { /* it has been waiting since before the window */
		watch(s, state, user_word(descriptor + PD_FD), writer);
		release_scratch(s);
	}
	u64 key = state->arrival;
	struct arrival *a = key ? watched.lookup(&key) : NULL;
	if (a && a->when) {
		state->data_ns = a->when;
		state->stopped_at_data = a->stopped_ns;
		state->waker = a->stack;
	}
}

/* runtime.netpollready: BX = pollDesc, CX = 'r', 'w' or their sum. runtime.ready is not called for those that it finds. */
int mark_netpoll(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	struct config *c = configuration(now);
	if (!c || draining(c, now))
		return 0;
	count(STAT_HITS_READY);
	u64 descriptor = ctx->bx;
	u32 mode = ctx->cx;
	u64 waiters[2] = {}; /* rg, wg */
	if (PD_WG == PD_RG + 8) {
		bpf_probe_read_user(waiters, sizeof(waiters), (void *)(descriptor + PD_RG));
	} else {
		waiters[0] = user_word(descriptor + PD_RG);
		waiters[1] = user_word(descriptor + PD_WG);
	}
	/* First the reader, then the writer. */
#pragma clang loop unroll(disable)
	for (u32 writer = 0; writer < 2; writer++)
		if (mode != (writer ? 'r' : 'w'))
			harvested(c, descriptor, waiters[writer & 1], writer, now);
	return 0;
}

/* runtime.gdestroy, before Go 1.22 goexit0: AX = the g whose goroutine has ended. */
int mark_exit(struct pt_regs *ctx)
{
	u64 g = ctx->ax, now = bpf_ktime_get_ns();
	struct config *c = configuration(now);
	if (!c)
		return 0;
	count(STAT_HITS_EXIT);
	struct goroutine *state = goroutines.lookup(&g);
	if (state) {
		state->flags |= GOROUTINE_ENDED;
		stop_running(state, draining(c, now) ? c->window_end_ns : now);
		if (SPANS && state->spans && !draining(c, now))
			may_be_over(g, state, now, 1);
	}
	return 0;
}
