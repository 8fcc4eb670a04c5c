/* The profiler labels of goroutines (runtime/pprof: Do, SetGoroutineLabels): the first ones of those that serve requests, and of all those
 * that --label names. A set of labels does not change once it is in a g: it is read as long as it is there. */

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

/* ---- the labels by which goroutines are kept apart (--label) ------------------------------------------------------- */

#define WANTED_PAIRS 32 /* of a set are read */
#define LABEL_LONGEST (1 << 20)

/* If the label in s->pair is a wanted one, keeps the beginning of its value. */
static __always_inline void take_wanted(struct scratch *s)
{
	volatile u64 *pair = s->pair, *key = s->wanted_key;
	u64 length = pair[1];
	if (length > WANTED_KEY || !(WANTED_LENGTHS >> (length & 63) & 1))
		return;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WANTED_KEY / 8; i++)
		key[i] = 0;
	if (length && bpf_probe_read_user(s->wanted_key, length & (2 * WANTED_KEY - 1), (void *)pair[0])) {
		s->wanted_whole = 0;
		return;
	}
	s->wanted_hash = mix(0, length);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WANTED_KEY / 8; i++)
		s->wanted_hash = mix(s->wanted_hash, key[i]);
	u64 hash = s->wanted_hash;
	u32 which = hash == WANTED_0 ? 0 : hash == WANTED_1 ? 1 : hash == WANTED_2 ? 2 : 3;
	if (which == 3 && hash != WANTED_3)
		return;
	u64 bytes = pair[3], kept = bytes < LABEL_VALUE ? bytes : LABEL_VALUE;
	which &= WANTED_LABELS - 1;
	if (bytes > LABEL_LONGEST ||
	    (bytes && bpf_probe_read_user(s->wanted.value[which], kept & (2 * LABEL_VALUE - 1), (void *)pair[2]))) {
		s->wanted_whole = 0;
		return;
	}
	s->wanted.bytes[which] = bytes;
}

/* Reads one label of the set at `labels` into s->pair; returns 0 if there is none in that place. *table is the address of the list of pairs,
 * or of the map's first bucket. */
static __always_inline int read_pair(struct scratch *s, u64 table, u32 i)
{
	if (LABELS_LIST) {
		if (!bpf_probe_read_user(s->pair, 32, (void *)(table + 32 * i)))
			return 1;
		s->wanted_whole = 0;
		return 0;
	}
	u32 slot = i & (MAP_SLOTS - 1);
	if (!slot && bpf_probe_read_user(s->window, BUCKET_BYTES + 8, (void *)(table + (BUCKET_BYTES + 8) * (i / MAP_SLOTS)))) {
		s->wanted_whole = 0;
		s->window[0] = 0;
		return 0;
	}
	if (!slot && *(u64 *)(s->window + BUCKET_BYTES))
		s->wanted_whole = 0; /* a bucket that overflows has more */
	if (s->window[slot] < MIN_TOP_HASH)
		return 0;
	u64 *key = (u64 *)(s->window + MAP_SLOTS + 16 * slot);
	s->pair[0] = key[0];
	s->pair[1] = key[1];
	s->pair[2] = key[2 * MAP_SLOTS];
	s->pair[3] = key[2 * MAP_SLOTS + 1];
	return 1;
}

/* The wanted labels of the set at `labels`: their key in `label_values`, where they are kept; 0 if it has none of them. */
static __always_inline u64 read_wanted(struct scratch *s, u64 labels)
{
	volatile u64 *list = s->list, *words = (u64 *)s->wanted.value;
	volatile u32 *bytes = s->wanted.bytes;
	s->wanted_whole = 1;
	if (!LABELS_LIST)
		s->window_bytes = 0; /* the window is used for the map, and has no stack any more */
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WANTED_LABELS; i++)
		bytes[i] = LABEL_ABSENT;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < sizeof(s->wanted.value) / 8; i++)
		words[i] = 0;
	list[0] = list[1] = 0;
	if (bpf_probe_read_user(s->list, LABELS_LIST ? 16 : 8, (void *)labels))
		goto unread;
	u64 pairs = list[1];
	if (!LABELS_LIST && list[0]) {
		/* runtime/map.go: hmap: count; flags, B, noverflow, hash0; buckets; oldbuckets */
		if (bpf_probe_read_user(s->window, 32, (void *)list[0]))
			goto unread;
		u64 *map = (u64 *)s->window;
		u32 b = s->window[9];
		pairs = map[0] ? (u64)MAP_SLOTS << (b & 31) : 0;
		if (map[0] && map[3])
			s->wanted_whole = 0; /* it grows */
		list[0] = map[2];
	}
	if (pairs > WANTED_PAIRS)
		s->wanted_whole = 0;
	list[1] = pairs;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WANTED_PAIRS; i++) {
		if (i >= list[1])
			break;
		if (read_pair(s, list[0], i))
			take_wanted(s);
	}
	u32 absent = 0;
	s->wanted_hash = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WANTED_LABELS; i++) {
		absent += i < WANTED && bytes[i] == LABEL_ABSENT;
		s->wanted_hash = mix(s->wanted_hash, bytes[i]);
	}
	if (absent && !s->wanted_whole)
		goto unread;
	if (absent == WANTED)
		return 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < sizeof(s->wanted.value) / 8; i++)
		s->wanted_hash = mix(s->wanted_hash, words[i]);
	u64 hash = s->wanted_hash | 4; /* no LABELS_* */
	if (!label_values.lookup(&hash) && label_values.insert(&hash, &s->wanted) && !label_values.lookup(&hash)) {
		count(STAT_LABEL_VALUES_FULL);
		return LABELS_OTHER;
	}
	return hash;
unread:
	count(STAT_LABELS_UNREAD);
	return LABELS_UNREAD;
}

/* The labels of goroutine g, which runs or is about to, for struct interval_key. They are read again only when g.labels has changed: a set
 * stays where it is as long as a g has it. `fresh`: the g is another goroutine's than before. */
static __always_inline u64 labels_of(struct scratch *s, u64 g, u32 fresh)
{
	u64 at = user_word(g + G_LABELS), labels = 0;
	struct labelled *known = labelled.lookup(&g);
	if (known && known->at == at && !fresh)
		return known->labels;
	if (!known && !at)
		return 0;
	if (at)
		labels = read_wanted(s, at);
	known = labelled.lookup(&g);
	if (known) {
		known->labels = labels;
		known->at = labels == LABELS_UNREAD ? ~0ULL : at;
		return labels;
	}
	struct labelled now = {.at = labels == LABELS_UNREAD ? ~0ULL : at, .labels = labels};
	labelled.update(&g, &now); /* if there is no room, they are read each time */
	return labels;
}

/* Those that were read when its thread left the CPU: now another process's memory may be in place. */
static __always_inline u64 known_labels(u64 g)
{
	struct labelled *known = labelled.lookup(&g);
	return known ? known->labels : 0;
}
