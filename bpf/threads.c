/* What the kernel does with the threads underneath: a goroutine that Go takes for running may be blocked in a system call
 * or wait for a CPU. Raw tracepoints; the goroutine is found without a trap, through the thread-local g. */

#define USER_CS 0x33
#define PF_EXITING 4 /* include/linux/sched.h */
#define GCOPYSTACK 8 /* runtime/runtime2.go: _Gcopystack */

/* Registers with which the thread entered the kernel: at the top of its kernel stack, below a padding of 16 bytes where the
 * kernel is built with CONFIG_X86_FRED. */
static __always_inline int user_registers(struct pt_regs *regs, u64 task)
{
	u64 top = kernel_word(task + K_TASK_STACK) + THREAD_SIZE;
	if (!bpf_probe_read_kernel(regs, sizeof(*regs), (void *)(top - sizeof(*regs))) && (u16)regs->cs == USER_CS)
		return 0;
	if (!bpf_probe_read_kernel(regs, sizeof(*regs), (void *)(top - 16 - sizeof(*regs))) && (u16)regs->cs == USER_CS)
		return 0;
	return -1;
}

static __always_inline int has_descriptor(u64 number)
{
	u64 mask = number < 64 ? FD_SYSCALLS_0 : number < 128 ? FD_SYSCALLS_1 : number < 192 ? FD_SYSCALLS_2 :
		   number < 256 ? FD_SYSCALLS_3 : number < 320 ? FD_SYSCALLS_4 : number < 384 ? FD_SYSCALLS_5 :
		   number < 448 ? FD_SYSCALLS_6 : 0;
	return mask >> (number & 63) & 1;
}

/* Whether the task's cgroup, or one above it, has used up its CPU quota on that CPU (kernel/sched/fair.c). */
static __always_inline u32 throttled(u64 task, u32 cpu)
{
	if (!K_TASK_GROUP)
		return 0;
	u64 queues = kernel_word(kernel_word(task + K_TASK_GROUP) + K_GROUP_CFS_RQ);
	return (u32)kernel_word(kernel_word(queues + 8 * (u64)cpu) + K_CFS_RQ_THROTTLE_COUNT) != 0;
}

/* Whether the word at that place of a goroutine's stack is a return address into Go code: there is a call in front of it. */
static __always_inline int returns_to_go(u64 at, u64 lo, u64 hi)
{
	u8 code[5];
	u64 to = 0;
	if (at - lo >= hi - lo || bpf_probe_read_user(&to, 8, (void *)at) || to - TEXT_LO >= TEXT_HI - TEXT_LO)
		return 0;
	if (bpf_probe_read_user(code, sizeof(code), (void *)(to - 5)))
		return 0;
	/* call rel32; call *reg, call *(reg); call *disp8(reg) */
	return code[0] == 0xE8 || (code[3] == 0xFF && (code[4] & 0x38) == 0x10) || (code[2] == 0xFF && (code[3] & 0x38) == 0x10);
}

#define FOREIGN_WORDS 16

/* Where on the goroutine's stack the word lies by which code that is not Go's, and that runs on that stack, returns to Go. 0: unknown. */
static __always_inline u64 call_of_foreign_code(u64 sp, u64 lo, u64 hi)
{
#pragma clang loop unroll(disable)
	for (u32 word = 0; word < FOREIGN_WORDS; word++, sp += 8)
		if (returns_to_go(sp, lo, hi))
			return sp;
	return 0;
}

#define SANITIZER_WORDS 64

/* Where on the goroutine's stack the return address of what called a sanitizer lies: in r12, or where C has saved that since on the
 * stack of g0, below where this one was when it was left (runtime/race_amd64.s: racecall; asan_amd64.s: asancall). 0: unknown. */
static __always_inline u64 call_of_sanitizer(u64 sp, u64 r12, u64 lo, u64 hi)
{
	if (returns_to_go(r12, lo, hi))
		return r12;
#pragma clang loop unroll(disable)
	for (u32 word = 0; word < SANITIZER_WORDS; word++, sp += 8) {
		u64 saved = user_word(sp);
		if (returns_to_go(saved, lo, hi))
			return saved;
	}
	return 0;
}

/* The current thread leaves its CPU. */
static __always_inline void leave(struct bpf_raw_tracepoint_args *ctx, struct config *c, u64 now)
{
	u64 task = bpf_get_current_task(), sk;
	u64 thread = (u32)bpf_get_current_pid_tgid();
	u64 tls = 0, m = 0, g = 0;
	u32 resuming = 0;
	if ((u32)kernel_word(task + K_TASK_FLAGS) & PF_EXITING)
		return; /* the thread ends, and its goroutine with it or has left it */
	if (bpf_probe_read_user(&tls, 8, (void *)(kernel_word(task + K_TASK_FSBASE) + TLS_G))) {
		count(STAT_INTERVAL_LOST);
		return;
	}
	if (!tls)
		return; /* not a thread of the Go runtime */
	if (bpf_probe_read_user(&m, 8, (void *)(tls + G_M)) || bpf_probe_read_user(&g, 8, (void *)(m + M_CURG))) {
		count(STAT_INTERVAL_LOST);
		return;
	}
	if (!g) {
		/* The scheduler, or an idle thread; or it was stopped in our own probe on runtime.execute (AX = the g that runs
		 * next) or right behind it, where the kernel looks whether another is to have the CPU, and Go has not yet noted
		 * whom it runs. */
		struct scratch *own = acquire_scratch();
		if (own) {
			if (!user_registers(&own->regs, task) && own->regs.ip - EXECUTE_AT <= EXECUTE_LENGTH)
				g = own->regs.ax;
			release_scratch(own);
		}
		if (!g) {
			/* Asleep, not merely out of its time slice: then the scheduler has found nothing for it to do. */
			if (LEAN && !ctx->args[0] && (u32)kernel_word(task + K_TASK_STATE))
				left_thread(thread, now);
			return;
		}
		resuming = 1;
	}
	if (!THREADS)
		return;
	struct goroutine *state = goroutines.lookup(&g);
	if (resuming && (!state || !state->run_since))
		return; /* our program has not run yet: it is still off the CPU */
	if (!state) {
		struct goroutine new = {.run_ns = now - c->window_start_ns, .flags = GOROUTINE_UNSURE};
		state = row_of(g, &new);
		if (!state)
			return;
		count_ns(STAT_RUN_NS, new.run_ns);
	}
	if (state->flags & GOROUTINE_ENDED)
		return; /* the thread has yet to turn to the scheduler */
	if (state->start_ns)
		return; /* between its last instruction and the scheduler's next: its interval is open already */
	stop_running(state, now);

	struct scratch *s = acquire_scratch();
	if (!s) {
		count(STAT_INTERVAL_LOST);
		return;
	}
	/* In map memory, of which the verifier remembers nothing: see struct pending. */
	volatile struct thread *t = &s->thread;
	t->out_ns = now;
	t->g = g;
	t->woken_ns = t->kernel_stack = t->object = t->syscall = t->throttled = 0;
	t->stopped_at_out = stopped_until(now);
	t->long_run_ns = 0;
	t->ran_ns = kernel_word(task + K_TASK_RAN);
	/* args: preempt, prev, next. A thread that is preempted on its way to sleep will run again without a wake-up. */
	u32 blocked = !ctx->args[0] && (u32)kernel_word(task + K_TASK_STATE);
	if (bpf_probe_read_user(s->g, G_READ, (void *)g) || user_registers(&s->regs, task)) {
		count(STAT_INTERVAL_LOST);
		goto out;
	}
	t->goid = word(s, G_GOID);
	t->kind = throttled(task, bpf_get_smp_processor_id()) ? KIND_THROTTLED : KIND_CPU;
	if (blocked) {
		t->long_run_ns = long_run(state);
		t->kind = KIND_FAULT;
		if ((long)s->regs.orig_ax >= 0) {
			t->kind = KIND_SYSCALL;
			t->syscall = s->regs.orig_ax;
			if (has_descriptor(t->syscall))
				t->object = object_of(s, file_of(s, task, s->regs.di), s->regs.di, 0, &sk);
		}
	} else {
		t->woken_ns = now;
	}
	/* Where the goroutine's own frames begin. One walk for all cases: each costs the compiler and the verifier dearly. */
	u64 lo = word(s, G_STACK_LO), hi = word(s, G_STACK_HI), checked = 0, pc = s->regs.ip, sp = s->regs.sp, fp = s->regs.bp;
	t->how = KIND_WAKER;
	if (pc - TEXT_LO < TEXT_HI - TEXT_LO && sp >= lo && sp < hi) {
		t->how = KIND_SYSCALL; /* in Go code: stopped at any instruction */
	} else if (tls == user_word(m) && word(s, G_SCHED_SP) - lo < hi - lo && word(s, G_SCHED_BP) &&
		   ((u32)word(s, G_ATOMICSTATUS) & 0xFFF) != GCOPYSTACK) {
		/* On g0 or in C: where it left its stack. Not so in a signal handler and in the vDSO, where the thread's g is not
		 * g0 (m's first field): sched is then of the last switch or system call, and its frames may be gone. */
		pc = word(s, G_SCHED_PC);
		sp = word(s, G_SCHED_SP);
		fp = word(s, G_SCHED_BP);
	} else if (tls == g && sp - lo < hi - lo && ((u32)word(s, G_ATOMICSTATUS) & 0xFFF) != GCOPYSTACK) {
		/* Code that is not Go's, on the goroutine's own stack: generated at run time, or a plugin's. With frames of its own it is
		 * passed by their pointers. */
		u64 at = call_of_foreign_code(sp, lo, hi);
		pc = OUTSIDE_CODE;
		if (at && (fp < sp || at < fp + 8)) {
			sp = at;
			t->how = KIND_TRANSIT;
		}
	} else if (SANITIZER && tls == g && (checked = call_of_sanitizer(sp, s->regs.r12, lo, hi))) {
		/* On g0's stack by a way that notes nothing but the stack pointer. C may have put something else into the frame pointer. */
		pc = SANITIZER_CODE;
		sp = checked;
		t->how = KIND_TRANSIT;
	} else {
		u64 caller = M_VDSO_SP ? user_word(m + M_VDSO_PC) : 0;
		sp = M_VDSO_SP ? user_word(m + M_VDSO_SP) : 0;
		if (sp - 16 - lo < hi - lo && caller - TEXT_LO < TEXT_HI - TEXT_LO) {
			/* Reading the clock in the vDSO, on g0: the caller is noted, and its frame pointer lies below the return
			 * address (runtime/sys_linux_amd64.s: nanotime1, time.now). */
			pc = caller;
			fp = user_word(sp - 16);
		} else {
			/* A few instructions before or after that, when the saved registers are taken or not yet there; in a
			 * signal handler; or while the stack is being copied. */
			fp = sp = 0;
			t->how = KIND_TRANSIT;
			count(STAT_STACK_IN_TRANSIT);
		}
	}
	t->stack = walk(s, pc, sp, fp, lo, hi, t->how, WALK_THREAD);
	if (t->how == KIND_TRANSIT && !sp) {
		t->stack = mix(t->stack, STACK_IN_TRANSIT);
		s->stack.flags |= STACK_IN_TRANSIT;
	}
	if (s->stack.flags & STACK_TRUNCATED)
		count(STAT_STACK_TRUNCATED);
	if (s->stack.flags & STACK_UNREADABLE)
		count(STAT_THREAD_STACK_UNREADABLE);
	keep_stack(s, t->stack);
	if (blocked)
		t->kernel_stack = keep_kernel_stack(ctx, s, (u64)ctx, RAW_TRACEPOINT_FRAMES);
	/* In place: an update would give the row a new address, and sched_waking on another CPU may hold the old one. */
	struct thread *row = threads.lookup(NARROW(thread));
	if (row)
		*row = *(struct thread *)t;
	else if (threads.update(NARROW(thread), (struct thread *)t))
		count(STAT_INTERVAL_LOST);
out:
	release_scratch(s);
}

/* The thread gets a CPU again, in the context of the one before it; or it leaves that CPU, and nothing was seen of it in
 * between: a sandbox may keep its own tasks from running anybody's programs, and what such a task hands its CPU to is then
 * not seen. In that case the thread's CPU time since tells when it got the CPU. */
static __always_inline void enter(struct config *c, u64 task, u64 now, u32 leaves)
{
	u64 thread = (u32)kernel_word(task + K_TASK_PID);
	struct thread *t = threads.lookup(NARROW(thread));
	if (!t || !t->out_ns)
		return;
	u64 from = t->out_ns, woken = t->woken_ns, g = t->g;
	if (leaves) {
		if (!t->ran_ns)
			return; /* noted by user space while it looked at what was blocked when the trace began */
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
	if (now < from || now > from + (1ULL << 62))
		now = from;
	if (!woken || woken > now)
		woken = now;
	if (woken < from)
		woken = from; /* the waker looked at the clock before we did */
	u32 preempted = t->kind == KIND_CPU || t->kind == KIND_THROTTLED;
	if (!state->start_ns && !state->run_since) { /* else it has left this thread since, unseen as above */
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
	p->stopped_ns[PART_RUNQUEUE] = stopped_between(stopped_at_woken, stopped, now - from);
	p->last_part = t->throttled ? PART_THROTTLED : PART_RUNQUEUE;
	p->long_run_ns = t->long_run_ns;
	p->margin_ns = 0;
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
	p->in_progress = drain;
	if (admit(s))
		commit(s, state, t->stack);
	release_scratch(s);
}

/* The configuration once the target's own number is known. These programs run for every thread of the machine: what can be
 * asked before the clock is, is. */
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

/* Raw tracepoint sched_waking: task. */
int on_waking(struct bpf_raw_tracepoint_args *ctx)
{
	struct config *c = known_target();
	u64 task = ctx->args[0];
	if (!c || (u32)kernel_word(task + K_TASK_TGID) != c->tgid)
		return 0;
	u64 thread = (u32)kernel_word(task + K_TASK_PID);
	struct thread *t = threads.lookup(NARROW(thread));
	if (!t || !t->out_ns || t->woken_ns)
		return 0;
	u64 now = bpf_ktime_get_ns();
	if (now < c->window_start_ns)
		return 0;
	t->stopped_at_woken = stopped_until(now);
	t->throttled = throttled(task, (u32)kernel_word(task + K_TASK_WAKE_CPU));
	t->woken_ns = now;
	return 0;
}
