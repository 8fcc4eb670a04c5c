/* Waits in the kernel that a signal or a stop cuts short and that continue afterwards, and stops of the whole process from outside. */

#define RESTART_SYSCALL 219 /* by which the kernel resumes some calls that a signal interrupted */
#define SAME_WAIT_NS 1000000 /* the longest gap between two pieces of one interval of a timeline */
#define HANDLER_NS 10000000 /* the longest run of a signal's handler between two halves of one wait, including a hypervisor's time */
#define RESTART_NS 1000000 /* the same where no handler ran */

/* Whether the kernel restarts the call that a thread with these registers is leaving: ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND,
 * ERESTART_RESTARTBLOCK (include/linux/errno.h). */
static __always_inline u32 is_restarted(long ax)
{
	return ax == -512 || ax == -513 || ax == -514 || ax == -516;
}

/* A signal or a stop meets the thread that goroutine g was last on, as it leaves the kernel with these registers. If that has cut the
 * goroutine's last wait short, the wait continues when the goroutine is back at that instruction. */
static __always_inline void note_interruption(u64 g, struct pt_regs *regs)
{
	struct wait *w = waits.lookup(&g);
	if (!w)
		return;
	w->flags &= ~WAIT_SIGNALLED;
	if (regs->ip != w->ip || regs->sp != w->sp)
		return;
	u32 interrupted;
	if ((long)regs->orig_ax >= 0)
		interrupted = w->kind == KIND_SYSCALL && is_restarted(regs->ax);
	else
		interrupted = w->kind == KIND_FAULT && w->flags & WAIT_INTERRUPTIBLE;
	if (interrupted)
		w->flags |= WAIT_INTERRUPTED;
}

/* The goroutine's last wait, a new one if it has none; NULL if there is no room. */
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
	u64 most_ns = w->flags & WAIT_INTERRUPTED ? HANDLER_NS : w->flags & WAIT_SIGNALLED ? RESTART_NS : 0;
	return ran_ns < most_ns && w->flags & (WAIT_COUNTED | WAIT_SHORT) && w->kind == kind && w->ip == regs->ip && w->sp == regs->sp &&
	       (w->syscall == syscall || syscall == RESTART_SYSCALL);
}

/* Whether a signal has woken this thread, which gets its CPU now, from a sleep that signals interrupt. If it is one to the process, another
 * thread may take it first; then none is delivered here, and the kernel starts again what was interrupted (kernel/signal.c: get_signal). */
static __always_inline u32 signalled(struct wait *w, u64 task)
{
	return w->flags & WAIT_INTERRUPTIBLE && kernel_word(task + K_TASK_WORK) & K_SIGNAL_PENDING ? WAIT_SIGNALLED : 0;
}

/* Whether a signal's handler sleeps, with this stack pointer, that has interrupted the goroutine's last wait: the wait goes on when the
 * handler has returned. Go runs all handlers on a stack of their own (os/signal: SA_ONSTACK). */
static __always_inline u32 in_handler(struct wait *w, u64 task, u64 sp)
{
	return w->flags & WAIT_INTERRUPTED && sp - kernel_word(task + K_TASK_ALTSTACK) < kernel_word(task + K_TASK_ALTSTACK_SIZE);
}

/* The leading thread stops, and the process with it. */
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
