/* The profiler labels of goroutines that serve requests (runtime/pprof: Do, SetGoroutineLabels). A set of labels does not change once it
 * is in a g: it is copied as long as it is there. */

/* Copies a Go string of the target, of which there is the address and the length; as much as there is room for. Returns the length, 0 if
 * it can't be read. */
static __always_inline u32 copy_bytes(u8 *to, u32 room, u64 from, u64 length)
{
	if (!length || length > 1 << 20)
		return 0;
	u32 bytes = length < room ? length : room;
	if (bpf_probe_read_user(to, bytes & (2 * room - 1), (void *)from))
		return 0;
	return length;
}

#define MAP_SLOTS 8     /* of a bucket (runtime/map.go) */
#define MIN_TOP_HASH 5  /* below that a slot is empty */
#define BUCKET_BYTES (MAP_SLOTS + 2 * 16 * MAP_SLOTS)

/* Finds the first labels behind g.labels: up to Go 1.23 a map[string]string, of which the first bucket is read, from then on a slice of
 * pairs (runtime/pprof/label.go). */
static __always_inline void find_labels(struct scratch *s, u64 labels)
{
	volatile u64 *list = s->list;
	u32 found = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < SPAN_LABELS; i++)
		s->label[i][1] = 0;
	if (bpf_probe_read_user(s->list, 16, (void *)labels))
		return;
	if (LABELS_LIST) {
#pragma clang loop unroll(disable)
		for (u32 i = 0; i < SPAN_LABELS && i < list[1]; i++)
			if (bpf_probe_read_user(s->label[i], 32, (void *)(list[0] + 32 * i)))
				s->label[i][1] = 0;
		return;
	}
	if (bpf_probe_read_user(s->list, 8, (void *)(list[0] + 16)) || bpf_probe_read_user(s->window, BUCKET_BYTES, (void *)list[0]))
		return;
#pragma clang loop unroll(disable)
	for (u32 slot = 0; slot < MAP_SLOTS; slot++) {
		if (s->window[slot] < MIN_TOP_HASH || found >= SPAN_LABELS)
			continue;
		u64 *key = (u64 *)(s->window + MAP_SLOTS + 16 * slot);
		u64 *label = s->label[found & (SPAN_LABELS - 1)];
		label[0] = key[0];
		label[1] = key[1];
		label[2] = key[2 * MAP_SLOTS];
		label[3] = key[2 * MAP_SLOTS + 1];
		found++;
	}
}

/* Copies the labels that the goroutine of a request has now, unless these were copied before. */
static __always_inline void copy_labels(struct scratch *s, struct span *span)
{
	if (bpf_probe_read_user(s->list, 8, (void *)(s->pending.g + G_LABELS)) || !s->list[0] || s->list[0] == span->labels_at)
		return;
	span->labels_at = s->list[0];
	find_labels(s, span->labels_at);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < SPAN_LABELS; i++) {
		struct span_label *label = &span->labels[i];
		label->key_bytes = copy_bytes(label->key, LABEL_KEY, s->label[i][0], s->label[i][1]);
		label->value_bytes = copy_bytes(label->value, LABEL_VALUE, s->label[i][2], s->label[i][3]);
	}
}
