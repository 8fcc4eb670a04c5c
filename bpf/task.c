/* What the kernel knows of a task: its registers, its cgroup's quota, whether it is stopped; and the row of a thread. */

#define USER_CS 0x33
/* include/linux/sched.h, include/linux/sched/jobctl.h */
#define STATE_INTERRUPTIBLE 1
#define STATE_STOPPED 4
#define STATE_TRACED 8
#define STATE_FROZEN 0x8000
#define JOBCTL_TRAP_FREEZE (1 << 23)

/* The registers with which the thread entered the kernel: at the top of its kernel stack, below 16 bytes of padding if the
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

/* The stack pointer among them, 0 if it is not known. */
static __always_inline u64 user_stack_pointer(u64 task)
{
	u64 top = kernel_word(task + K_TASK_STACK) + THREAD_SIZE;
#pragma clang loop unroll(disable)
	for (u32 padding = 0; padding <= 16; padding += 16) {
		u64 tail[3] = {}; /* cs, flags, sp; ss follows */
		if (!bpf_probe_read_kernel(tail, sizeof(tail), (void *)(top - padding - 4 * 8)) && (u16)tail[0] == USER_CS)
			return tail[2];
	}
	return 0;
}

/* Whether the task's cgroup, or one above it, has used up its CPU quota on that CPU (kernel/sched/fair.c). */
static __always_inline u32 throttled(u64 task, u32 cpu)
{
	if (!K_TASK_GROUP)
		return 0;
	u64 queues = kernel_word(kernel_word(task + K_TASK_GROUP) + K_GROUP_CFS_RQ);
	return (u32)kernel_word(kernel_word(queues + 8 * (u64)cpu) + K_CFS_RQ_THROTTLE_COUNT) != 0;
}

/* Whether a thread that sleeps in this state is stopped from outside: by a signal, a debugger, or a freezer. The sleep of cgroup v2's
 * freezer is an ordinary one; job control tells. For cgroup v1 before Linux 6.1 only the kernel stack tells
 * (gotrace/model/kernelstacks.py). */
static __always_inline u32 is_halted(u64 task, u64 state)
{
	if (state & (STATE_STOPPED | STATE_TRACED | STATE_FROZEN))
		return 1;
	return state & STATE_INTERRUPTIBLE && kernel_word(task + K_TASK_JOBCTL) & JOBCTL_TRAP_FREEZE;
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
