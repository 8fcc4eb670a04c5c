/* A thread leaves its CPU: with which goroutine, why, and where the goroutine's own frames begin. The goroutine is found without a trap,
 * through the thread-local g. */

#define PF_EXITING 4 /* include/linux/sched.h */
#define GSYSCALL 3   /* runtime/runtime2.go: _Gsyscall */
#define GCOPYSTACK 8 /* _Gcopystack */
/* runtime/proc.go: oneNewExtraM: how far below its top the stack begins of a goroutine for threads of C. */
#define EMPTY_STACK 64

static __always_inline int has_descriptor(u64 number)
{
	u64 mask = number < 64 ? FD_SYSCALLS_0 : number < 128 ? FD_SYSCALLS_1 : number < 192 ? FD_SYSCALLS_2 :
		   number < 256 ? FD_SYSCALLS_3 : number < 320 ? FD_SYSCALLS_4 : number < 384 ? FD_SYSCALLS_5 :
		   number < 448 ? FD_SYSCALLS_6 : 0;
	return mask >> (number & 63) & 1;
}

/* Whether the word at `at` on a goroutine's stack is a return address into Go code: a call precedes it. */
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

/* Where on the goroutine's stack the word is by which foreign code that runs on that stack returns to Go. 0: unknown. */
static __always_inline u64 call_of_foreign_code(u64 sp, u64 lo, u64 hi)
{
#pragma clang loop unroll(disable)
	for (u32 word = 0; word < FOREIGN_WORDS; word++, sp += 8)
		if (returns_to_go(sp, lo, hi))
			return sp;
	return 0;
}

#define SANITIZER_WORDS 64

/* Where on the goroutine's stack the return address of a sanitizer's caller is. racecall, asancall and msancall keep the stack pointer in
 * r12, or C has saved r12 since on the stack of g0, below where that stack was left (runtime/race_amd64.s, asan_amd64.s). racecall has no
 * frame; the others have one with nothing but the caller's frame pointer. 0: unknown. */
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

/* The frame pointer of the caller of a sanitizer that has no frame of its own. C keeps it, or saves it below where it left the stack of g0
 * before it uses the register for something else. It is the lowest of all words there that point to a frame. */
static __always_inline u64 frame_of_caller(u64 sp, u64 fp, u64 lo, u64 hi)
{
	u64 lowest = hi;
	if (fp >= lo && returns_to_go(fp + 8, lo, hi))
		return fp;
#pragma clang loop unroll(disable)
	for (u32 word = 0; word < SANITIZER_WORDS; word++, sp += 8) {
		u64 saved = user_word(sp);
		if (saved - lo < lowest - lo && returns_to_go(saved + 8, lo, hi))
			lowest = saved;
	}
	return lowest < hi ? lowest : fp;
}

/* The current thread leaves its CPU. */
static __always_inline void leave(struct bpf_raw_tracepoint_args *ctx, struct config *c, u64 now)
{
	u64 task = bpf_get_current_task(), sk;
	u64 thread = (u32)bpf_get_current_pid_tgid();
	u64 tls = 0, m = 0, g = 0;
	u32 resuming = 0;
	if ((u32)kernel_word(task + K_TASK_FLAGS) & PF_EXITING)
		return; /* the thread exits; its goroutine exits with it or has left it */
	/* args: preempt, prev, next. A thread preempted on its way to sleep will run again without a wake-up. */
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
		/* The scheduler, or an idle thread. Or it was stopped in our own probe on runtime.execute (AX = the g that runs
		 * next) or right after it, where the kernel checks whether to run another thread and Go has not yet recorded
		 * which goroutine it runs. */
		struct scratch *own = acquire_scratch();
		if (own) {
			if (!user_registers(&own->regs, task) && own->regs.ip - EXECUTE_AT <= EXECUTE_LENGTH)
				g = own->regs.ax;
			release_scratch(own);
		}
		if (!g) {
			/* Asleep, not just at the end of its time slice: the scheduler has found nothing for it to do. */
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
		return; /* the thread has not yet turned to the scheduler */
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
	/* A thread of C that has called into Go keeps an M and a goroutine for the next call (runtime/cgocall.go: cgocallbackg). While
	 * that goroutine's stack is empty, the thread is outside Go. */
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

	/* In map memory, which the verifier does not track: see struct pending. */
	volatile struct thread *t = &s->thread;
	*(struct thread *)t = *row;
	t->out_ns = now;
	t->g = g;
	t->woken_ns = t->kernel_stack = t->object = t->syscall = t->throttled = 0;
	t->stopped_at_out = stopped_until(now);
	t->halted_at_out = halted_until(now);
	t->long_run_ns = 0;
	t->ran_ns = kernel_word(task + K_TASK_RAN);
	t->flags &= ~(THREAD_BEFORE | THREAD_CONTINUES | THREAD_HANDLER);
	t->goid = word(s, G_GOID);
	t->kind = throttled(task, bpf_get_smp_processor_id()) ? KIND_THROTTLED : KIND_CPU;
	if (FROM_READY) {
		/* How long it will have waited for a CPU is all that is asked. */
		if (blocked)
			t->kind = halted ? KIND_STOPPED : (long)s->regs.orig_ax >= 0 ? KIND_SYSCALL : KIND_FAULT;
		else
			t->woken_ns = now;
		*row = *(struct thread *)t;
		goto out;
	}
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
			w->flags &= ~(WAIT_INTERRUPTED | WAIT_SIGNALLED | WAIT_INTERRUPTIBLE);
			w->flags |= task_state & STATE_INTERRUPTIBLE ? WAIT_INTERRUPTIBLE : 0;
			t->syscall = w->syscall;
			t->stack = w->stack;
			t->kernel_stack = w->kernel_stack;
			t->object = w->object;
			t->flags |= THREAD_CONTINUES;
			*row = *(struct thread *)t;
			goto out;
		}
		if (w && in_handler(w, task, s->regs.sp)) {
			t->flags |= THREAD_HANDLER;
			w = NULL;
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
	/* Where the goroutine's own frames begin. One walk serves all cases: each is expensive to compile and to verify. */
	u64 lo = word(s, G_STACK_LO), hi = word(s, G_STACK_HI), checked = 0, pc = s->regs.ip, sp = s->regs.sp, fp = s->regs.bp;
	t->how = KIND_WAKER;
	if (pc - TEXT_LO < TEXT_HI - TEXT_LO && sp >= lo && sp < hi) {
		t->how = KIND_SYSCALL; /* in Go code: stopped at any instruction */
	} else if (tls == user_word(m) && word(s, G_SCHED_SP) - lo < hi - lo && word(s, G_SCHED_BP) &&
		   ((u32)word(s, G_ATOMICSTATUS) & 0xFFF) != GCOPYSTACK) {
		/* On g0 or in C: where it left its own stack. Not in a signal handler or the vDSO, where the thread's g is not g0 (m's
		 * first field): sched is then from the last switch or system call, and its frames may be gone. */
		pc = word(s, G_SCHED_PC);
		sp = word(s, G_SCHED_SP);
		fp = word(s, G_SCHED_BP);
	} else if (tls == g && sp - lo < hi - lo && ((u32)word(s, G_ATOMICSTATUS) & 0xFFF) != GCOPYSTACK) {
		/* Code that is not Go's, on the goroutine's own stack: generated at run time, or a plugin's. If it has frames of its own,
		 * their pointers lead past it. */
		u64 at = call_of_foreign_code(sp, lo, hi);
		pc = OUTSIDE_CODE;
		if (at && (fp < sp || at < fp + 8)) {
			sp = at;
			t->how = KIND_TRANSIT;
		}
	} else if (SANITIZER && tls == g && (checked = call_of_sanitizer(sp, s->regs.r12, lo, hi))) {
		/* Went onto g0's stack in a way that records the stack pointer alone. C may have overwritten the frame pointer. */
		pc = SANITIZER_CODE;
		fp = SANITIZER_FRAME ? user_word(checked - 8) : frame_of_caller(sp, fp, checked, hi);
		sp = checked;
		t->how = KIND_TRANSIT;
	} else {
		u64 caller = M_VDSO_SP ? user_word(m + M_VDSO_PC) : 0;
		sp = M_VDSO_SP ? user_word(m + M_VDSO_SP) : 0;
		if (sp - 16 - lo < hi - lo && caller - TEXT_LO < TEXT_HI - TEXT_LO) {
			/* Reading the clock in the vDSO, on g0: the caller is recorded, and its frame pointer is below the return
			 * address (runtime/sys_linux_amd64.s: nanotime1, time.now). */
			pc = caller;
			fp = user_word(sp - 16);
		} else {
			/* A few instructions before or after that, when the saved registers are already taken or not yet there; in a
			 * signal handler; or while the stack is being copied. */
			fp = sp = 0;
			t->how = KIND_TRANSIT;
			count(STAT_STACK_IN_TRANSIT);
		}
	}
	/* Through map memory: if the verifier tracked these, and all else here, it would follow the walk once for each case. */
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
	if (WANTED)
		labels_of(s, t->g, 0);
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
	/* In place: an update would move the row to a new address, and sched_waking on another CPU may hold the old one. */
	row = threads.lookup(NARROW(thread));
	if (row)
		*row = *(struct thread *)t;
out:
	release_scratch(s);
}
