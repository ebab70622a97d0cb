/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of leases and quarantines, and locks.
 * Trust: runs as root; reads files that it wrote itself in a directory of root, and believes none
 * whose sum or any field is not as it writes them.
 */
#include "vfio-helper/bind/lease.h"

#include "common/fd.h"
#include "common/sha256.h"
#include "vfio-helper/bind/bind.h"
#include "vfio-helper/pci/sysfs.h"

#include <fcntl.h>
#include <time.h>

#define RECORDS_MAX   512
#define RECORD_REST   48 /* an address or a VM's name; what is cut is neither */
#define LOCK_POLL_MS  50
/* Offsets in the file of locks; a function's is its address, which has 48 bits. */
#define LOCK_CHOOSING (INT64_C(1) << 61)
#define LOCK_VMS      (INT64_C(1) << 60)

void (*bind_point_hook)(const char *name);

void bind_point(const char *name)
{
	if (bind_point_hook)
		bind_point_hook(name);
}

/* ---- records ---- */

/* Over the format's version, the record's own name and its bytes. */
static void digest(const char *name, const void *body, size_t size,
		   uint8_t ret_sum[static SHA256_SIZE])
{
	struct sha256 s;

	sha256_init(&s);
	sha256_add(&s, "qudata-gpu-2", 12);
	sha256_add(&s, name, strlen(name) + 1);
	sha256_add(&s, body, size);
	sha256_end(&s, ret_sum);
}

static int save(int state_fd, const char *name, const void *body, size_t size)
{
	uint8_t file[SHA256_SIZE + sizeof(struct lease)];

	digest(name, body, size, file);
	memcpy(file + SHA256_SIZE, body, size);
	return fd_swap_file(state_fd, name, file, SHA256_SIZE + size, 0600);
}

static int load(int state_fd, const char *name, void *ret_body, size_t size)
{
	uint8_t file[SHA256_SIZE + sizeof(struct lease) + 1], sum[SHA256_SIZE];
	ssize_t n = fd_read_file(state_fd, name, (char *)file, sizeof(file));

	if (n < 0)
		return n == -EFBIG || n == -ELOOP ? -EBADMSG : (int)n;
	if ((size_t)n != SHA256_SIZE + size)
		return -EBADMSG;
	digest(name, file + SHA256_SIZE, size, sum);
	if (memcmp(file, sum, sizeof(sum)) != 0)
		return -EBADMSG;
	memcpy(ret_body, file + SHA256_SIZE, size);
	return 0;
}

bool driver_name_ok(const char *name)
{
	size_t n = strnlen(name, PCI_DRIVER_SIZE);

	return n > 0 && n < PCI_DRIVER_SIZE &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") ==
		       n;
}

static bool one_of(const char *text, const char *a, const char *b)
{
	return text[0] == '\0' || STR_EQ(text, a) || STR_EQ(text, b);
}

/* A driver that keeps a function for guests is nothing to give it back to. */
static bool keeps(const char *driver)
{
	return STR_EQ(driver, "vfio-pci") || STR_EQ(driver, "pci-stub") ||
	       STR_EQ(driver, "pciback");
}

static bool func_ok(const struct lease_func *f)
{
	return f->address != 0 && f->address <= PROTO_PCI_MAX && f->gpu != 0 &&
	       f->gpu <= PROTO_PCI_MAX && f->step <= STEP_MAX && f->class_code <= 0xffffff &&
	       f->class_code >> 16 != 6 && f->vendor != UINT16_MAX &&
	       f->role <= PROTO_GPU_ROLE_MAX && f->adopted <= 1 &&
	       proto_text_ok(f->driver, sizeof(f->driver)) &&
	       proto_text_ok(f->override, sizeof(f->override)) &&
	       (f->driver[0] == '\0' ? f->adopted == 0 : driver_name_ok(f->driver)) &&
	       (f->adopted == 1 || !keeps(f->driver)) &&
	       (f->override[0] == '\0' || driver_name_ok(f->override)) &&
	       proto_text_ok(f->d3cold, sizeof(f->d3cold)) && one_of(f->d3cold, "0", "1") &&
	       proto_text_ok(f->power, sizeof(f->power)) && one_of(f->power, "on", "auto");
}

static bool lease_ok(const struct lease *l, const char *vm)
{
	if (l->phase < LEASE_TAKING || l->phase > LEASE_PHASE_MAX || l->n_funcs == 0 ||
	    l->n_funcs > PROTO_MAX_DEVICES || l->n_services > LEASE_SERVICES ||
	    !proto_name_ok(l->vm) || !STR_EQ(l->vm, vm) || l->n_gpus == 0 ||
	    l->n_gpus != proto_gpus_count(l->gpus))
		return false;
	for (uint32_t i = 0; i < l->n_services; i++)
		if (!proto_text_ok(l->services[i], sizeof(l->services[i])))
			return false;
	for (uint32_t i = 0; i < l->n_funcs; i++)
		if (!func_ok(&l->funcs[i]) ||
		    (i > 0 && l->funcs[i].address <= l->funcs[i - 1].address))
			return false;
	return true;
}

static void lease_name(const char *vm, char ret_name[static 64])
{
	(void)snprintf(ret_name, 64, "lease-%.*s", PROTO_NAME_MAX, vm);
}

static void quarantine_name(pci_addr address, char ret_name[static 64])
{
	char text[PCI_TEXT_SIZE];

	pci_addr_text(address, text);
	(void)snprintf(ret_name, 64, "quarantine-%s", text);
}

int lease_load(int state_fd, const char *vm, struct lease *ret_lease)
{
	struct lease lease;
	char name[64];
	int r;

	lease_name(vm, name);
	r = load(state_fd, name, &lease, sizeof(lease));
	if (r == 0 && !lease_ok(&lease, vm))
		r = -EBADMSG;
	if (r == 0)
		*ret_lease = lease;
	return r;
}

int lease_save(int state_fd, const struct lease *lease)
{
	char name[64];

	lease_name(lease->vm, name);
	return save(state_fd, name, lease, sizeof(*lease));
}

static int record_remove(int state_fd, const char *name)
{
	if (unlinkat(state_fd, name, 0) < 0 && errno != ENOENT)
		return -errno;
	return fsync(state_fd) < 0 ? -errno : 0;
}

int lease_remove(int state_fd, const char *vm)
{
	char name[64];

	lease_name(vm, name);
	return record_remove(state_fd, name);
}

int quarantine_load(int state_fd, pci_addr address, struct quarantine *ret_q)
{
	struct quarantine q;
	char name[64];
	int r;

	quarantine_name(address, name);
	r = load(state_fd, name, &q, sizeof(q));
	if (r < 0)
		return r;
	if (!func_ok(&q.func) || q.func.address != address || !proto_text_ok(q.why, sizeof(q.why)))
		return -EBADMSG;
	*ret_q = q;
	return 0;
}

int quarantine_save(int state_fd, const struct lease_func *func, const char *why)
{
	struct quarantine q = {.since_s = (int64_t)time(NULL), .func = *func};
	char name[64];
	int r;

	q.func.step = STEP_LOST;
	proto_text_set(q.why, sizeof(q.why), why);
	quarantine_name(func->address, name);
	r = save(state_fd, name, &q, sizeof(q));
	return r == 0 && fsync(state_fd) < 0 ? -errno : r;
}

int quarantine_remove(int state_fd, pci_addr address)
{
	char name[64];

	quarantine_name(address, name);
	return record_remove(state_fd, name);
}

/* The names first: what @fn writes would come up again while the directory is read. */
int records_each(int state_fd, const char *prefix, int (*fn)(void *arg, const char *rest),
		 void *arg)
{
	_cleanup_closedir_ DIR *dir = sysfs_list(state_fd, ".");
	char rest[RECORDS_MAX][RECORD_REST];
	uint32_t n = 0;
	const char *name;
	int r = dir ? 0 : -EIO;

	while (dir && (name = sysfs_next(dir))) {
		if (strncmp(name, prefix, strlen(prefix)) != 0)
			continue;
		if (n == RECORDS_MAX)
			return -E2BIG;
		(void)snprintf(rest[n++], RECORD_REST, "%s", name + strlen(prefix));
	}
	for (uint32_t i = 0; r >= 0 && i < n; i++)
		r = fn(arg, rest[i]);
	return MIN_OF(r, 0);
}

struct gathering {
	int state_fd, lock_fd;
	const char *except;
	struct gpu_state *state;
};

static int add_lease(void *arg, const char *vm)
{
	const struct gathering *g = arg;
	struct gpu_state *s = g->state;
	struct gpu_lease_ref *more;
	struct lease lease;
	bool complete;

	/* A damaged record protects nothing: what it held is on a VFIO driver without a lease. */
	if (STR_EQ(vm, g->except) || lease_load(g->state_fd, vm, &lease) < 0)
		return 0;
	more = reallocarray(s->leases, s->n_leases + lease.n_funcs, sizeof(*more));
	if (!more)
		return -ENOMEM;
	s->leases = more;
	complete = lease.phase == LEASE_HELD || vm_is_locked(g->lock_fd, vm);
	for (uint32_t i = 0; i < lease.n_funcs; i++) {
		struct gpu_lease_ref *ref = &s->leases[s->n_leases++];

		*ref = (struct gpu_lease_ref){.address = lease.funcs[i].address,
					      .complete = complete};
		memcpy(ref->vm, lease.vm, sizeof(ref->vm));
	}
	return 0;
}

/* One that cannot be read keeps its device back all the same: its name says whose it is. */
static int add_quarantine(void *arg, const char *text)
{
	const struct gathering *g = arg;
	struct gpu_state *s = g->state;
	struct gpu_quarantine_ref *more, *ref;
	struct quarantine q = {.why = "its record is damaged"};
	pci_addr address;

	if (pci_addr_parse(text, &address) < 0)
		return 0;
	(void)quarantine_load(g->state_fd, address, &q);
	more = reallocarray(s->quarantines, s->n_quarantines + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	s->quarantines = more;
	ref = &s->quarantines[s->n_quarantines++];
	*ref = (struct gpu_quarantine_ref){.address = address, .since_s = q.since_s};
	memcpy(ref->why, q.why, sizeof(ref->why));
	return 0;
}

int records_state(int state_fd, const char *except, struct gpu_state *ret_state)
{
	_cleanup_close_ int lock_fd = lock_open(state_fd);
	struct gathering g = {state_fd, lock_fd, except, ret_state};
	int r = lock_fd < 0 ? lock_fd : records_each(state_fd, "lease-", add_lease, &g);

	return r < 0 ? r : records_each(state_fd, "quarantine-", add_quarantine, &g);
}

/* ---- locks ---- */

int lock_open(int state_fd)
{
	int fd = openat(state_fd, BIND_LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	return fd < 0 ? -errno : fd;
}

/* Two VMs whose names meet here wait for each other; that is all. */
static off_t vm_offset(const char *vm)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);

	for (const char *p = vm; *p; p++)
		hash = (hash ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
	return LOCK_VMS + (off_t)(hash >> 8);
}

static struct flock byte_at(short type, off_t offset)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = offset, .l_len = 1};
}

static int lock_byte(int fd, off_t offset, unsigned int wait_ms)
{
	const struct timespec pause = {.tv_nsec = LOCK_POLL_MS * 1000000L};
	struct flock lock = byte_at(F_WRLCK, offset);

	for (unsigned int waited = 0; fcntl(fd, F_OFD_SETLK, &lock) < 0; waited += LOCK_POLL_MS) {
		if (errno != EAGAIN && errno != EACCES)
			return -errno;
		if (waited >= wait_ms)
			return -EBUSY;
		(void)nanosleep(&pause, NULL);
	}
	return 0;
}

int lock_choosing(int fd, unsigned int wait_ms)
{
	return lock_byte(fd, LOCK_CHOOSING, wait_ms);
}

int lock_vm(int fd, const char *vm, unsigned int wait_ms)
{
	return lock_byte(fd, vm_offset(vm), wait_ms);
}

int lock_function(int fd, pci_addr address, unsigned int wait_ms)
{
	return lock_byte(fd, (off_t)address, wait_ms);
}

int unlock_choosing(int fd)
{
	struct flock lock = byte_at(F_UNLCK, LOCK_CHOOSING);

	return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -errno : 0;
}

bool vm_is_locked(int fd, const char *vm)
{
	struct flock lock = byte_at(F_WRLCK, vm_offset(vm));

	return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}
