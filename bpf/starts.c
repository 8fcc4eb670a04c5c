/* What a goroutine's row is while it runs, and how an interval begins. */

static __always_inline void stop_running(struct goroutine *known, u64 now)
{
	if (known->run_since && now > known->run_since) {
		known->run_ns += now - known->run_since;
		count_ns(STAT_RUN_NS, now - known->run_since);
	}
	known->run_since = 0;
}

/* The row of g, a new one if it has none; NULL if the table is full, which is counted. */
static __always_inline struct goroutine *row_of(u64 g, struct goroutine *blank)
{
	struct goroutine *state = goroutines.lookup(&g);
	if (state)
		return state;
	goroutines.insert(&g, blank);
	state = goroutines.lookup(&g);
	if (!state)
		count(STAT_GOROUTINE_TABLE_FULL);
	return state;
}

/* The length of the run that ends now if it was a long one, else 0: since the goroutine was last resumed, by Go or from a system call.
 * Always 0 where the kernel does not tell what its thread did meanwhile. */
static __always_inline u64 long_run(struct goroutine *known)
{
	if (!KERNEL_STAGE || FROM_READY)
		return 0;
	u64 run = known->run_ns - known->slice_base;
	return run > LONG_RUN_NS && run < 1ULL << 62 ? run : 0;
}

/* ---- starts ------------------------------------------------------------------------------------------------------ */

/* Sets what an interval begins with, after its start is in the row. */
static __always_inline void begin_interval(struct goroutine *known)
{
	known->stopped_at_start = stopped_until(known->start_ns);
	known->halted_at_start = halted_until(known->start_ns);
	known->long_run_ns = long_run(known);
	/* Its thread has turned to something else; it may have left the thread at any time since it was resumed there. */
	if (LEAN)
		known->margin_ns = known->run_ns - known->slice_base;
}

/* A running goroutine leaves its CPU. */
static __always_inline void leave_cpu(struct goroutine *known, u32 kind, u64 now)
{
	/* Written first, so that the tracepoints leave this goroutine alone: newer kernels may preempt us here. If they
	 * have done so since we read the clock, the goroutine has already been off its CPU and back. */
	*(volatile u64 *)&known->start_ns = now;
	if (*(volatile u64 *)&known->run_since > now)
		known->start_ns = now = bpf_ktime_get_ns();
	stop_running(known, now);
	known->kind = kind;
	known->flags &= ~GOROUTINE_UNSURE;
	begin_interval(known);
}

/* How long a goroutine that no program has seen before, and that is on this thread, has run: not from before the thread got its CPU, and
 * not longer than the thread had one. If neither is known, since the window began. `slack_ns`: how far the thread's CPU time may lag
 * behind. */
static __always_inline u64 ran_unseen(struct config *c, u64 now, struct thread *t, u64 slack_ns)
{
	u64 from = c->window_start_ns;
	if (THREADS && t) {
		u64 in = t->in_ns;
		if (in > from)
			from = in;
		if (t->flags & THREAD_BASE) {
			u64 ran = kernel_word(bpf_get_current_task() + K_TASK_RAN), base = t->base_ns;
			u64 most = ran >= base ? ran - base + slack_ns : 0;
			if (ran >= base && now > from && now - from > most)
				return most;
		}
	}
	return now > from ? now - from : 0;
}

/* Notes that a goroutine that no program has seen before was off the CPU: its thread first got a CPU inside the window, and the goroutine
 * was on it then: had the thread turned to the goroutine since, its resumption would have been seen. Not so the goroutine of a thread of
 * C that calls into Go, which has no function that it started in (runtime/proc.go: oneNewExtraM): the thread may have slept before the
 * call. Unless it was on that goroutine's stack, or user space found the goroutine on it as the window was about to open. */
static __always_inline void note_unseen(struct goroutine *new, struct config *c, struct thread *t, u64 g)
{
	if (!THREADS || !t || !t->first_sp || t->in_ns <= c->window_start_ns)
		return;
	u64 lo = user_word(g + G_STACK_LO), hi = user_word(g + G_STACK_HI);
	if (t->first_sp - lo >= hi - lo && (!(t->flags & THREAD_BASE) || t->g != g) && (LEAN || !G_STARTPC || !user_word(g + G_STARTPC)))
		return;
	new->unseen_ns = t->in_ns - c->window_start_ns;
	new->unseen_goid = user_word(g + G_GOID);
	new->off_ns = new->unseen_ns;
}

#define TICK_NS 20000000 /* the kernel updates the CPU time of a running thread at least this often (CONFIG_HZ 100: twice) */

static __always_inline struct thread *current_thread(void)
{
	u64 thread = (u32)bpf_get_current_pid_tgid();
	return THREADS ? threads.lookup(NARROW(thread)) : NULL;
}

/* Returns the goroutine's row, NULL if no interval was opened. */
static __always_inline struct goroutine *open_interval(struct config *c, u64 g, u32 kind, u64 now)
{
	struct goroutine *known = goroutines.lookup(&g);
	u32 drain = draining(c, now);
	if (drain)
		now = c->window_end_ns; /* only remember that the goroutine was running at the end of the window */
	if (known) {
		if (drain) {
			stop_running(known, now);
			return NULL;
		}
		if (known->start_ns)
			count(STAT_START_WHILE_STOPPED);
		leave_cpu(known, kind, now);
		return known;
	}
	/* Seen for the first time: it has been running since before the window, or since its thread came out of the kernel. */
	struct goroutine new = {.start_ns = drain ? 0 : now, .kind = kind};
	new.run_ns = ran_unseen(c, now, current_thread(), TICK_NS);
	note_unseen(&new, c, current_thread(), g);
	long inserted = !goroutines.insert(&g, &new);
	known = goroutines.lookup(&g);
	if (!known) {
		count(STAT_GOROUTINE_TABLE_FULL);
		return NULL;
	}
	if (inserted) {
		count_ns(STAT_RUN_NS, new.run_ns);
	} else {
		/* A tracepoint came first: we were preempted in between. An update would move the row to a new address. */
		known->kind = kind;
		known->flags = 0;
		if (!drain)
			known->start_ns = known->run_since > now ? bpf_ktime_get_ns() : now;
		stop_running(known, drain ? now : known->start_ns);
	}
	if (drain)
		return NULL;
	begin_interval(known);
	return known;
}
