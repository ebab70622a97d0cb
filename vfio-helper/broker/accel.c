/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM or emulation. A /dev/kvm that opens and answers may still hang a stock kernel before its
 * first line, so only a real kernel's own words count, tried once per host kernel and QEMU. Trust:
 * runs as qudata-helper; reads the serial console of a QEMU that runs the image's kernel and
 * nothing else.
 */
#include "vfio-helper/broker/broker.h"

#include "common/fd.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/utsname.h>

/* 0 when the VMs' users may open /dev/kvm; -ENOENT, -EACCES. */
static int kvm_usable(const struct broker *b)
{
	struct stat st;

	if (stat("/dev/kvm", &st) < 0)
		return -ENOENT;
	if ((st.st_mode & (S_IROTH | S_IWOTH)) == (S_IROTH | S_IWOTH))
		return 0;
	return b->setup.spawn.kvm_gid != 0 ? 0 : -EACCES;
}

static void decide(struct broker *b, enum proto_accel accel, enum proto_accel_reason reason)
{
	static const char *const reasons[] = {
#define X(name, text) text,
		PROTO_ACCEL_REASON_LIST(X)
#undef X
	};
	struct accel_record *rec = &b->accel.rec;

	rec->accel = accel;
	rec->reason = reason;
	audit_event(b, LOG_NOTICE, "accel-choice",
		    LOG_STR("ACCEL", accel == PROTO_ACCEL_KVM ? "kvm" : "tcg"),
		    LOG_STR("REASON", reasons[reason]),
		    LOG_NUM("SIGN_OF_LIFE_MS", rec->sign_of_life_ms));
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (b->vms[i].phase == VM_WAIT_ACCEL)
			vm_launch(b, &b->vms[i]);
}

/* What a remembered result depends on. */
static void write_basis(const struct broker *b, struct accel_record *rec)
{
	struct utsname u = {0};
	struct stat st = {0};

	(void)uname(&u);
	(void)stat(b->setup.spawn.qemu_binary, &st);
	(void)snprintf(rec->basis, sizeof(rec->basis), "%.60s %.60s %llu %llu %llu", u.release,
		       u.version, (unsigned long long)st.st_ino, (unsigned long long)st.st_size,
		       (unsigned long long)st.st_mtim.tv_sec);
}

void accel_load(struct broker *b)
{
	struct accel_record old = {0}, *rec = &b->accel.rec;
	int r = kvm_usable(b);

	b->accel.child = CHILD_NONE;
	write_basis(b, rec);
	if (b->setup.accel != ACCEL_AUTO) {
		decide(b, b->setup.accel == ACCEL_KVM ? PROTO_ACCEL_KVM : PROTO_ACCEL_TCG,
		       PROTO_ACCEL_CONFIGURED);
	} else if (r < 0) {
		decide(b, PROTO_ACCEL_TCG,
		       r == -ENOENT ? PROTO_ACCEL_NO_DEVICE : PROTO_ACCEL_NO_PERMISSION);
	} else if (record_get(b->accel_fd, "accel", &old, sizeof(old)) == 0 &&
		   STR_EQ(old.basis, rec->basis) && old.accel <= PROTO_ACCEL_MAX &&
		   old.reason <= PROTO_ACCEL_REASON_MAX) {
		rec->sign_of_life_ms = old.sign_of_life_ms;
		decide(b, old.accel, old.reason);
	}
}

static void on_trial_end(struct broker *b, void *arg)
{
	struct accel *a = arg;
	struct child_end end = child_collect(b, &a->child);
	bool alive = end.kind == PROTO_EXIT_CODE && end.code == LAUNCH_OK;
	/* Remembered is a kernel's silence, not that of a QEMU which had another reason to end. */
	bool remember = alive || (end.kind == PROTO_EXIT_CODE && end.code == LAUNCH_SILENT);

	if (!remember)
		log_event(LOG_WARNING, "the trial of KVM failed", LOG_STR("STDERR", end.words));
	a->rec.sign_of_life_ms = alive ? (uint32_t)(loop_now_ms() - a->started_ms) : 0;
	decide(b, alive ? PROTO_ACCEL_KVM : PROTO_ACCEL_TCG,
	       alive ? PROTO_ACCEL_PROVED : PROTO_ACCEL_SILENT);
	if (remember && record_put(b->accel_fd, "accel", &a->rec, sizeof(a->rec)) < 0)
		log_event(LOG_WARNING, "the trial of KVM cannot be remembered");
}

/* As the user of a slot without a running VM: no user is shared with a guest. */
static int trial_start(struct broker *b)
{
	struct accel *a = &b->accel;
	struct spawn_spec spec = {.program = PROGRAM_TRIAL, .slot = b->setup.spawn.max_vms};
	_cleanup_close_ int kernel = image_find_kernel(b->image_fd);
	int fds[FD_ROLES], r;

	if (kernel < 0)
		return kernel;
	do
		if (spec.slot-- == 0)
			return -EBUSY;
	while (vm_is_up(&b->vms[spec.slot]));
	no_fds(fds);
	fds[FD_KERNEL] = kernel;
	a->started_ms = loop_now_ms();
	r = monitor_start(&b->monitor, &spec, fds, NULL, &a->child);
	return r < 0 ? r : child_watch(b, &a->child, on_trial_end, a);
}

bool accel_ready(struct broker *b)
{
	int r;

	if (b->accel.rec.accel != PROTO_ACCEL_UNDECIDED)
		return true;
	r = b->accel.child.pidfd >= 0 ? 0 : trial_start(b);
	if (r == 0)
		return false;
	/* Nothing to try with now: emulation for this start, and the question stays open. */
	b->accel.rec.reason = PROTO_ACCEL_NO_KERNEL;
	log_event(LOG_WARNING, "KVM cannot be tried yet; emulation is used", LOG_ERRNO(r));
	return true;
}
