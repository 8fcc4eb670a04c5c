/* What a file descriptor is: read from the kernel's own structs, whose offsets (K_*) are those of its BTF. */

#define AF_INET 2
#define AF_INET6 10
#define S_IFMT 0xF000
#define S_IFSOCK 0xC000

/* struct file of the current task's descriptor, 0 if there is none. */
static __always_inline u64 file_of(u64 task, u32 fd)
{
	u64 fdt = kernel_word(kernel_word(task + K_TASK_FILES) + K_FILES_FDT);
	u32 size = kernel_word(fdt + K_FDTABLE_MAX_FDS);
	if (fd >= size)
		return 0;
	return kernel_word(kernel_word(fdt + K_FDTABLE_FD) + 8 * (u64)fd);
}

/* Describes a file in `objects` and returns its key there; *socket is its struct sock, 0 if it is none. */
static __always_inline u64 object_of(u64 file, u32 fd, u64 *socket)
{
	struct object o = {.fd = fd};
	u64 inode, hash = 0;

	*socket = 0;
	if (!file)
		return 0;
	inode = kernel_word(file + K_FILE_INODE);
	o.mode = (u16)kernel_word(inode + K_INODE_MODE);
	o.ino = kernel_word(inode + K_INODE_INO);
	o.dev = kernel_word(kernel_word(inode + K_INODE_SB) + K_SB_DEV);
	if ((o.mode & S_IFMT) == S_IFSOCK) {
		u64 sk = kernel_word(kernel_word(file + K_FILE_PRIVATE) + K_SOCKET_SK);
		*socket = sk;
		o.family = kernel_word(sk + K_SK_FAMILY);
		o.type = kernel_word(sk + K_SK_TYPE);
		o.state = (u8)kernel_word(sk + K_SK_STATE);
		if (o.family == AF_INET || o.family == AF_INET6) {
			o.local_port = kernel_word(sk + K_SK_NUM);
			o.peer_port = kernel_word(sk + K_SK_DPORT);
		}
		if (o.family == AF_INET) {
			bpf_probe_read_kernel(o.local, 4, (void *)(sk + K_SK_RCV_SADDR));
			bpf_probe_read_kernel(o.peer, 4, (void *)(sk + K_SK_DADDR));
		} else if (o.family == AF_INET6) {
			bpf_probe_read_kernel(o.local, 16, (void *)(sk + K_SK_V6_RCV_SADDR));
			bpf_probe_read_kernel(o.peer, 16, (void *)(sk + K_SK_V6_DADDR));
		}
	}
	u64 *words = (u64 *)&o;
#pragma unroll
	for (u32 i = 0; i < sizeof(o) / 8; i++)
		hash = mix(hash, words[i]);
	if (!objects.lookup(&hash)) {
		objects.insert(&hash, &o);
		if (!objects.lookup(&hash)) {
			count(STAT_OBJECT_TABLE_FULL);
			return 0;
		}
	}
	return hash;
}

/* Data came for a socket. In the context of whoever brought it. */
static __always_inline int readable(u64 sk)
{
	u64 *when = watched.lookup(&sk);
	if (when && !*when)
		*when = bpf_ktime_get_ns();
	return 0;
}

/* Raw tracepoint sk_data_ready (Linux 6.3): sk. */
int on_data_ready(struct bpf_raw_tracepoint_args *ctx) { return readable(ctx->args[0]); }
