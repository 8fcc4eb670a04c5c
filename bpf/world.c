/* Stop-the-world pauses, from the call that requests one to the call that ends it. Both run on g0, one pause at a time. */

/* runtime.stopTheWorldWithSema: AX = reason, from Go 1.21 on. */
int stop_world(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u64 zero = 0;
	struct world *w = world.lookup(NARROW(zero));
	struct config *c = configuration(now);
	if (!w || !c || draining(c, now))
		return 0;
	w->reason = HAS_STOP_REASON ? (u8)ctx->ax : 0;
	u64 index = w->pauses;
	struct pause *p = pauses.lookup(NARROW(index));
	if (p) {
		p->start_ns = now;
		p->duration_ns = 0;
		p->reason = w->reason;
	} else {
		count(STAT_PAUSE_TABLE_FULL);
	}
	w->pauses = index + 1;
	w->stopped_since = now;
	return 0;
}

/* runtime.startTheWorldWithSema */
int start_world(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u64 zero = 0;
	struct world *w = world.lookup(NARROW(zero));
	struct config *c = configuration(now);
	if (!w || !c || !w->stopped_since)
		return 0; /* the pause began before the window */
	if (draining(c, now))
		now = c->window_end_ns;
	u64 since = w->stopped_since;
	w->stopped_since = 0;
	/* The requester may have read the clock just before the window's end was set, to an earlier instant. */
	u64 length = now > since ? now - since : 1;
	w->stopped_ns += length;
	u64 index = w->pauses - 1;
	struct pause *p = pauses.lookup(NARROW(index));
	if (p)
		p->duration_ns = length;
	return 0;
}
