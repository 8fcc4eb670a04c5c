/* What the kernel does with the threads underneath: a goroutine that Go takes for running may be blocked in a system call
 * or wait for a CPU. Raw tracepoints; the goroutine is found without a trap, through the thread-local g. */

#define USER_CS 0x33
#define PF_EXITING 4 /* include/linux/sched.h */
#define GSYSCALL 3   /* runtime/runtime2.go: _Gsyscall */
#define GCOPYSTACK 8 /* _Gcopystack */
#define RESTART_SYSCALL 219 /* with which the kernel goes on with some calls that a signal interrupted */
#define SAME_WAIT_NS 1000000 /* what a signal handler may run between two halves of one wait */
/* runtime/proc.go: oneNewExtraM: where the stack of a goroutine for threads of C begins, below its top. */
#define EMPTY_STACK 64
/* include/linux/sched.h, include/linux/sched/jobctl.h */
#define STATE_INTERRUPTIBLE 1
#define STATE_STOPPED 4
#define STATE_TRACED 8
#define STATE_FROZEN 0x8000
#define JOBCTL_TRAP_FREEZE (1 << 23)

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

/* Where it had its stack then, 0 if that is not known. */
static __always_inline u64 user_stack_pointer(u64 task)
{
	u64 top = kernel_word(task + K_TASK_STACK) + THREAD_SIZE;
#pragma clang loop unroll(disable)
	for (u32 padding = 0; padding <= 16; padding += 16) {
		u64 tail[3] = {}; /* cs, flags, sp; behind them ss */
		if (!bpf_probe_read_kernel(tail, sizeof(tail), (void *)(top - padding - 4 * 8)) && (u16)tail[0] == USER_CS)
			return tail[2];
	}
	return 0;
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

/* Whether a thread that sleeps in this state is stopped from outside: by a signal, a debugger, or a freezer (of cgroup v2 by its job
 * control, as the sleep is an ordinary one). Of cgroup v1 before Linux 6.1 only its kernel stack tells (gotrace/model/kernelstacks.py). */
static __always_inline u32 is_halted(u64 task, u64 state)
{
	if (state & (STATE_STOPPED | STATE_TRACED | STATE_FROZEN))
		return 1;
	return state & STATE_INTERRUPTIBLE && kernel_word(task + K_TASK_JOBCTL) & JOBCTL_TRAP_FREEZE;
}

/* Whether the call that a thread is on its way out of, with these registers, is made again by the kernel: ERESTARTSYS, ERESTARTNOINTR,
 * ERESTARTNOHAND, ERESTART_RESTARTBLOCK (include/linux/errno.h). */
static __always_inline u32 is_restarted(long ax)
{
	return ax == -512 || ax == -513 || ax == -514 || ax == -516;
}

/* A signal or a stop meets the thread that goroutine g was last on, on its way out of the kernel with these registers. If that has cut
 * the goroutine's last wait short, it goes on when the goroutine is back at that instruction. */
static __always_inline void note_interruption(u64 g, struct pt_regs *regs)
{
	struct wait *w = waits.lookup(&g);
	if (!w || !w->ns || regs->ip != w->ip || regs->sp != w->sp)
		return;
	u32 interrupted;
	if ((long)regs->orig_ax >= 0)
		interrupted = w->kind == KIND_SYSCALL && is_restarted(regs->ax);
	else
		interrupted = w->kind == KIND_FAULT && w->flags & WAIT_INTERRUPTIBLE;
	if (interrupted)
		w->flags |= WAIT_INTERRUPTED;
}

/* The goroutine's last wait, made anew if it has none; NULL where there is no room. */
static __always_inline struct wait *wait_of(u64 g)
{
	struct wait none = {}, *w = waits.lookup(&g);
	if (w)
		return w;
	waits.insert(&g, &none);
	return waits.lookup(&g);
}

/* Whether the goroutine sleeps in its last wait again. */
static __always_inline u32 goes_on(struct wait *w, struct pt_regs *regs, u32 kind, u32 syscall, u64 ran_ns)
{
	return w->flags & WAIT_INTERRUPTED && w->flags & (WAIT_COUNTED | WAIT_SHORT) && w->kind == kind && w->ip == regs->ip && w->sp == regs->sp &&
	       (w->syscall == syscall || syscall == RESTART_SYSCALL) && ran_ns < SAME_WAIT_NS;
}

/* The leading thread stops, and with it the process. */
static __always_inline void begin_halt(struct thread *t, u64 now)
{
	u64 zero = 0;
	struct halt *h = halt.lookup(NARROW(zero));
	if (h && !h->since) {
		h->since = now;
		t->flags |= THREAD_HALTED;
	}
}

static __always_inline void end_halt(struct config *c, struct thread *t, u64 now)
{
	u64 zero = 0;
	struct halt *h = halt.lookup(NARROW(zero));
	t->flags &= ~THREAD_HALTED;
	if (!h || !h->since)
		return;
	if (draining(c, now))
		now = c->window_end_ns;
	u64 since = h->since < c->window_start_ns ? c->window_start_ns : h->since;
	h->since = 0;
	h->total_ns += now > since ? now - since : 0;
}

/* The row of a thread of the target; NULL if the table is full. */
static __always_inline struct thread *thread_row(u64 thread)
{
	struct thread *t = threads.lookup(NARROW(thread));
	if (t)
		return t;
	u64 zero = 0;
	struct scratch *s = scratch.lookup(NARROW(zero));
	if (!s)
		return NULL;
	threads.insert(NARROW(thread), (struct thread *)&s->zero);
	return threads.lookup(NARROW(thread));
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

/* Where on the goroutine's stack the return address of what called a sanitizer lies: racecall, asancall and msancall keep the stack
 * pointer in r12, or C has saved that since on the stack of g0, below where this one was when it was left (runtime/race_amd64.s,
 * asan_amd64.s). racecall has no frame; the others have one, of nothing but the caller's frame pointer. 0: unknown. */
static __always_inline u64 call_of_sanitizer(u64 sp, u64 r12, u64 lo, u64 hi)
{
	if (returns_to_go(r12 + SANITIZER_FRAME, lo, hi))
		return r12 + SANITIZER_FRAME;
#pragma clang loop unroll(disable)
	for (u32 word = 0; word < SANITIZER_WORDS; word++, sp += 8) {
		u64 saved = user_word(sp) + SANITIZER_FRAME;
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
	/* args: preempt, prev, next. A thread that is preempted on its way to sleep will run again without a wake-up. */
	u64 task_state = (u32)kernel_word(task + K_TASK_STATE);
	u32 blocked = !ctx->args[0] && task_state;
	u32 halted = blocked && is_halted(task, task_state);
	struct thread *row = THREADS ? thread_row(thread) : NULL;
	if (row)
		row->flags &= ~THREAD_QUEUED;
	if (halted && row && thread == c->tgid)
		begin_halt(row, now);
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
			if (LEAN && blocked)
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
	if (state && state->flags & GOROUTINE_ENDED)
		return; /* the thread has yet to turn to the scheduler */
	if (state && state->start_ns)
		return; /* between its last instruction and the scheduler's next: its interval is open already */
	struct scratch *s = acquire_scratch();
	if (!s || !row) {
		count(STAT_INTERVAL_LOST);
		if (state)
			stop_running(state, now);
		if (s)
			release_scratch(s);
		return;
	}
	if (bpf_probe_read_user(s->g, G_READ, (void *)g) || user_registers(&s->regs, task)) {
		count(STAT_INTERVAL_LOST);
		if (state)
			stop_running(state, now);
		goto out;
	}
	/* A thread of C that has called into Go keeps an M and a goroutine for the next time (runtime/cgocall.go: cgocallbackg). While
	 * nothing is on that goroutine's stack the thread is about C's own business. */
	if (G_SYSCALLSP && ((u32)word(s, G_ATOMICSTATUS) & 0xFFF) == GSYSCALL && word(s, G_STACK_HI) - word(s, G_SYSCALLSP) <= EMPTY_STACK) {
		row->flags |= THREAD_OUTSIDE;
		if (state)
			stop_running(state, now);
		goto out;
	}
	if (!state) {
		struct goroutine new = {.run_ns = ran_unseen(c, now, row, 0), .flags = GOROUTINE_UNSURE};
		note_unseen(&new, c, row, g);
		state = row_of(g, &new);
		if (!state)
			goto out;
		count_ns(STAT_RUN_NS, new.run_ns);
	}
	stop_running(state, now);

	/* In map memory, of which the verifier remembers nothing: see struct pending. */
	volatile struct thread *t = &s->thread;
	*(struct thread *)t = *row;
	t->out_ns = now;
	t->g = g;
	t->woken_ns = t->kernel_stack = t->object = t->syscall = t->throttled = 0;
	t->stopped_at_out = stopped_until(now);
	t->halted_at_out = halted_until(now);
	t->long_run_ns = 0;
	t->ran_ns = kernel_word(task + K_TASK_RAN);
	t->flags &= ~(THREAD_BEFORE | THREAD_CONTINUES);
	t->goid = word(s, G_GOID);
	t->kind = throttled(task, bpf_get_smp_processor_id()) ? KIND_THROTTLED : KIND_CPU;
	struct wait *w = NULL;
	if (halted) {
		t->kind = KIND_STOPPED;
		note_interruption(g, &s->regs);
	} else if (blocked) {
		t->long_run_ns = long_run(state);
		t->kind = (long)s->regs.orig_ax >= 0 ? KIND_SYSCALL : KIND_FAULT;
		t->syscall = t->kind == KIND_SYSCALL ? s->regs.orig_ax : 0;
		w = wait_of(g);
		if (w && goes_on(w, &s->regs, t->kind, t->syscall, state->run_ns - state->slice_base)) {
			w->flags &= ~(WAIT_INTERRUPTED | WAIT_INTERRUPTIBLE);
			w->flags |= task_state & STATE_INTERRUPTIBLE ? WAIT_INTERRUPTIBLE : 0;
			t->syscall = w->syscall;
			t->stack = w->stack;
			t->kernel_stack = w->kernel_stack;
			t->object = w->object;
			t->flags |= THREAD_CONTINUES;
			*row = *(struct thread *)t;
			goto out;
		}
		if (w) {
			w->flags = task_state & STATE_INTERRUPTIBLE ? WAIT_INTERRUPTIBLE : 0;
			w->ns = 0;
			w->ip = s->regs.ip;
			w->sp = s->regs.sp;
			w->kind = t->kind;
			w->syscall = t->syscall;
		}
		if (t->kind == KIND_SYSCALL && has_descriptor(t->syscall))
			t->object = object_of(s, file_of(s, task, s->regs.di), s->regs.di, 0, &sk);
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
		if (SANITIZER_FRAME)
			fp = user_word(sp - 8);
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
	/* Through map memory: what the verifier knows of them, and of all else here, would have it follow the walk once for each case. */
	volatile struct pt_regs *from = &s->regs;
	from->ip = pc;
	from->sp = sp;
	from->bp = fp;
	t->unused = blocked | (w ? 2 : 0);
	t->stack = walk(s, from->ip, from->sp, from->bp, word(s, G_STACK_LO), word(s, G_STACK_HI), t->how, WALK_THREAD);
	if (t->how == KIND_TRANSIT && !from->sp) {
		t->stack = mix(t->stack, STACK_IN_TRANSIT);
		s->stack.flags |= STACK_IN_TRANSIT;
	}
	if (s->stack.flags & STACK_TRUNCATED)
		count(STAT_STACK_TRUNCATED);
	if (s->stack.flags & STACK_UNREADABLE)
		count(STAT_THREAD_STACK_UNREADABLE);
	keep_stack(s, t->stack);
	u32 then = t->unused;
	if (then & 1)
		t->kernel_stack = keep_kernel_stack(ctx, s, (u64)ctx, RAW_TRACEPOINT_FRAMES);
	g = t->g;
	w = then & 2 ? waits.lookup(&g) : NULL;
	if (w) {
		w->stack = t->stack;
		w->kernel_stack = t->kernel_stack;
		w->object = t->object;
	}
	/* In place: an update would give the row a new address, and sched_waking on another CPU may hold the old one. */
	row = threads.lookup(NARROW(thread));
	if (row)
		*row = *(struct thread *)t;
out:
	release_scratch(s);
}

/* The thread gets a CPU again, in the context of the one before it; or it leaves that CPU, and nothing was seen of it in
 * between: a sandbox may keep its own tasks from running anybody's programs, and what such a task hands its CPU to is then
 * not seen. In that case the thread's CPU time since tells when it got the CPU. */
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
				/* It had no CPU then, else it would have been seen to leave it. */
				struct goroutine new = {.flags = GOROUTINE_UNSURE};
				if (row_of(t->g, &new))
					t->out_ns = c->window_start_ns;
			}
			t->flags &= ~THREAD_QUEUED;
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
	if (from < c->window_start_ns)
		from = c->window_start_ns; /* noted by user space before it opened the window */
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
	struct wait *w = kind == KIND_SYSCALL || kind == KIND_FAULT ? waits.lookup(&g) : NULL;
	u32 continues = w && flags & THREAD_CONTINUES, waited = w ? w->flags : 0;
	u64 main_ns = p->part_ns[PART_MAIN];
	p->halted_ns[PART_MAIN] = stopped_between(t->halted_at_out, halted_until(now), main_ns);
	p->carried_ns = 0;
	p->in_progress = drain || flags & THREAD_BEFORE;
	if (continues) {
		p->in_progress = drain || waited & WAIT_BEFORE;
		if (waited & WAIT_COUNTED) {
			p->carried_ns = w->ns;
			p->in_progress = drain && !(waited & WAIT_BEFORE);
		} else {
			p->part_ns[PART_MAIN] = w->ns + main_ns; /* what was too short alone */
		}
	}
	p->event_from = from;
	p->event_ns = p->part_ns[PART_MAIN];
	p->event_flags = 0;
	if (STREAM && w) {
		/* What a stop, or anything else that takes long, has parted is two intervals of a timeline. */
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
		w->flags &= ~WAIT_INTERRUPTED; /* which a signal says after this */
	}
	if (admit(s)) {
		if (w && p->weight == 1)
			w->flags |= WAIT_COUNTED;
		commit(s, state, t->stack, 1);
	} else if (w && MIN_BLOCK_NS && w->ns < MIN_BLOCK_NS) {
		w->flags |= WAIT_SHORT;
	}
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

/* Raw tracepoint signal_deliver: a signal is taken, by the thread that it meets. */
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
