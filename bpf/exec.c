/* The end of the trace when the target calls exec. */

/* Raw tracepoint sched_process_exec. */
int target_exec(void *ctx)
{
	u64 zero = 0;
	struct config *c = config.lookup(NARROW(zero));
	struct bpf_pidns_info ids = {};
	/* Numbers of our own PID namespace: in a container the kernel's are different. */
	if (bpf_get_ns_current_pid_tgid(PID_NAMESPACE_DEV, PID_NAMESPACE_INO, &ids, sizeof(ids)))
		return 0;
	if (c && ids.tgid == TARGET_PID) {
		c->phase = PHASE_OFF;
		c->window_end_ns = bpf_ktime_get_ns();
		c->execed = 1;
	}
	return 0;
}
