/* System calls as Go sees them, for hosts where the kernel's tracepoints may not be used; two traps each. Whether the thread
 * slept is not known, so only calls of at least MIN_SYSCALL_NS count. */

#define MIN_SYSCALL_NS 20000 /* runtime/proc.go: sysmon takes a P away no earlier */

/* runtime.reentersyscall: R14 = g. */
int enter_syscall(struct pt_regs *ctx)
{
	u64 g = ctx->r14, now = bpf_ktime_get_ns();
	u64 thread = (u32)bpf_get_current_pid_tgid();
	struct config *c = configuration(now);
	if (!c || draining(c, now))
		return 0;
	count(STAT_HITS_SYSCALL);
	struct goroutine *state = goroutines.lookup(&g);
	if (!state) {
		struct goroutine new = {.run_ns = now - c->window_start_ns};
		state = row_of(g, &new);
		if (!state)
			return 0;
		count_ns(STAT_RUN_NS, new.run_ns);
	}
	stop_running(state, now);
	struct thread t = {.out_ns = now, .g = g, .kind = KIND_SYSCALL, .syscall = NO_SYSCALL,
			   .stopped_at_out = stopped_until(now), .halted_at_out = halted_until(now), .long_run_ns = long_run(state)};
	if (threads.update(NARROW(thread), &t))
		count(STAT_INTERVAL_LOST);
	return 0;
}

/* runtime.exitsyscall: R14 = g. The stack is the goroutine's own, at any instruction of that function's prologue. */
int exit_syscall(struct pt_regs *ctx)
{
	u64 g = ctx->r14, now = bpf_ktime_get_ns();
	u64 thread = (u32)bpf_get_current_pid_tgid();
	struct config *c = configuration(now);
	if (!c)
		return 0;
	count(STAT_HITS_SYSCALL);
	struct thread *t = threads.lookup(NARROW(thread));
	struct goroutine *state = goroutines.lookup(&g);
	if (!t || !t->out_ns || t->g != g || !state)
		return 0;
	u32 drain = draining(c, now);
	u64 from = t->out_ns;
	t->out_ns = 0;
	if (drain)
		now = c->window_end_ns;
	state->run_since = drain ? 0 : now;
	state->slice_base = state->run_ns;
	if (now < from + MIN_SYSCALL_NS) {
		state->run_ns += now > from ? now - from : 0; /* as far as is known, it did not sleep */
		return 0;
	}
	state->off_ns += now - from;
	struct scratch *s = acquire_scratch();
	if (!s) {
		count(STAT_INTERVAL_LOST);
		return 0;
	}
	volatile struct pending *p = &s->pending;
	if (bpf_probe_read_user(s->g, G_READ, (void *)g)) {
		count(STAT_INTERVAL_LOST);
		goto out;
	}
#pragma clang loop unroll(disable)
	for (u32 part = 0; part < PARTS; part++)
		p->part_ns[part] = p->stopped_ns[part] = p->halted_ns[part] = 0;
	p->part_ns[PART_MAIN] = now - from;
	p->stopped_ns[PART_MAIN] = stopped_between(t->stopped_at_out, stopped_until(now), now - from);
	p->halted_ns[PART_MAIN] = stopped_between(t->halted_at_out, halted_until(now), now - from);
	p->long_run_ns = t->long_run_ns;
	p->margin_ns = p->carried_ns = p->late_ns = 0;
	p->piece_ns = now - from;
	p->depth = word(s, G_STACK_HI) - ctx->sp;
	p->last_part = PART_RUNQUEUE;
	p->tid = thread;
	p->g = g;
	p->from = from;
	p->goid = word(s, G_GOID);
	p->kind = KIND_SYSCALL;
	p->syscall = t->syscall;
	p->in_progress = drain;
	p->kernel_stack = t->kernel_stack;
	p->object = t->object;
	p->waker = p->waker_goid = 0;
	p->reason = 0;
	p->recorded = admit(s);
	if (!FOLLOWED && !p->recorded)
		goto out;
	u64 stack = walk(s, ctx->ip, ctx->sp, ctx->bp, word(s, G_STACK_LO), word(s, G_STACK_HI), KIND_SYSCALL, WALK_THREAD);
	if (p->recorded)
		keep_stack(s, stack);
	p->stack = stack;
	commit(s, state, 0);
out:
	release_scratch(s);
	return 0;
}
