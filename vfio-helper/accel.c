/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM or emulation. A /dev/kvm that opens and answers may still hang a stock kernel before its
 * first line, so only a real kernel's own words count, tried once per host kernel and QEMU. Trust:
 * runs as root; reads the serial console of a QEMU that runs the image's kernel and nothing else.
 */
#include "vfio-helper/helper.h"

#include "common/fd.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/utsname.h>

#define SIGN_OF_LIFE "Linux version"

int accel_kvm_group(gid_t *ret_gid)
{
	struct stat st;

	if (stat("/dev/kvm", &st) < 0)
		return -ENOENT;
	*ret_gid = 0;
	if ((st.st_mode & (S_IROTH | S_IWOTH)) == (S_IROTH | S_IWOTH))
		return 0;
	if (st.st_gid == 0 || (st.st_mode & (S_IRGRP | S_IWGRP)) != (S_IRGRP | S_IWGRP))
		return -EACCES;
	*ret_gid = st.st_gid;
	return 0;
}

static const char *reason_text(uint32_t reason)
{
	static const char *const texts[] = {
		[PROTO_ACCEL_NOT_TRIED] = "not tried",
		[PROTO_ACCEL_CONFIGURED] = "configured",
		[PROTO_ACCEL_PROVED] = "a real kernel came to life under KVM",
		[PROTO_ACCEL_NO_DEVICE] = "no /dev/kvm",
		[PROTO_ACCEL_NO_PERMISSION] = "the VMs' users may not open /dev/kvm",
		[PROTO_ACCEL_SILENT] = "a real kernel stayed silent under KVM",
		[PROTO_ACCEL_NO_KERNEL] = "no kernel to try with",
	};

	return reason < ARRAY_LEN(texts) ? texts[reason] : "unknown";
}

static void decide(struct helper *h, enum proto_accel accel, enum proto_accel_reason reason)
{
	struct accel_record *rec = &h->accel.rec;

	rec->accel = accel;
	rec->reason = reason;
	audit_event(h, LOG_NOTICE, "accel-choice",
		    LOG_STR("ACCEL", accel == PROTO_ACCEL_KVM ? "kvm" : "tcg"),
		    LOG_STR("REASON", reason_text(reason)),
		    LOG_NUM("SIGN_OF_LIFE_MS", rec->sign_of_life_ms));
	for (size_t i = 0; i < PROTO_MAX_VMS; i++)
		if (h->vms[i].phase == VM_WAIT_ACCEL)
			vm_launch(h, &h->vms[i]);
}

/* What a remembered result depends on. */
static void fingerprint(const struct helper *h, struct accel_record *rec)
{
	struct utsname u;
	struct stat st;

	if (uname(&u) == 0)
		(void)snprintf(rec->host, sizeof(rec->host), "%.60s %.60s", u.release, u.version);
	if (stat(h->config.qemu_binary, &st) == 0)
		(void)snprintf(rec->qemu, sizeof(rec->qemu), "%llu %llu %llu",
			       (unsigned long long)st.st_ino, (unsigned long long)st.st_size,
			       (unsigned long long)st.st_mtim.tv_sec);
}

void accel_load(struct helper *h)
{
	struct accel_record old = {0};
	gid_t group;
	int r = accel_kvm_group(&group);

	h->accel.child = CHILD_NONE;
	h->accel.console = -EBADF;
	fingerprint(h, &h->accel.rec);
	if (h->config.accel != ACCEL_AUTO) {
		decide(h, h->config.accel == ACCEL_KVM ? PROTO_ACCEL_KVM : PROTO_ACCEL_TCG,
		       PROTO_ACCEL_CONFIGURED);
	} else if (r < 0) {
		decide(h, PROTO_ACCEL_TCG,
		       r == -ENOENT ? PROTO_ACCEL_NO_DEVICE : PROTO_ACCEL_NO_PERMISSION);
	} else if (RECORD_LOAD(h->state_fd, "accel", accel, &old) == 0 &&
		   STR_EQ(old.host, h->accel.rec.host) && STR_EQ(old.qemu, h->accel.rec.qemu) &&
		   (old.accel == PROTO_ACCEL_KVM || old.accel == PROTO_ACCEL_TCG)) {
		h->accel.rec.sign_of_life_ms = old.sign_of_life_ms;
		decide(h, old.accel, old.reason);
	}
}

/* @remember: the silence was a kernel's, not that of a QEMU which ended for a reason of its own. */
static void trial_end(struct helper *h, bool alive, bool remember)
{
	struct accel *a = &h->accel;

	loop_unwatch(h, &a->console_watch);
	child_kill(&a->child); /* collected by on_trial_exit() */
	a->console = safe_close(a->console);
	a->deadline_ms = 0;
	a->rec.sign_of_life_ms = alive ? (uint32_t)(loop_now_ms() - a->started_ms) : 0;
	decide(h, alive ? PROTO_ACCEL_KVM : PROTO_ACCEL_TCG,
	       alive ? PROTO_ACCEL_PROVED : PROTO_ACCEL_SILENT);
	if (remember && RECORD_SAVE(h->state_fd, "accel", accel, &a->rec) < 0)
		log_event(LOG_WARNING, "the trial of KVM cannot be remembered");
}

static void on_trial_console(struct helper *h, void *arg)
{
	struct accel *a = arg;
	ssize_t n = read(a->console, a->text + a->n_text, sizeof(a->text) - 1 - a->n_text);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		a->n_text += (size_t)n;
		if (memmem(a->text, a->n_text, SIGN_OF_LIFE, strlen(SIGN_OF_LIFE)))
			trial_end(h, true, true);
		else if (a->n_text == sizeof(a->text) - 1)
			trial_end(h, false, true);
		return;
	}
	loop_unwatch(h, &a->console_watch); /* on_trial_exit() is next */
}

static void on_trial_exit(struct helper *h, void *arg)
{
	struct accel *a = arg;
	uint32_t kind, code;
	char words[200];

	child_last_words(&a->child, words, sizeof(words));
	loop_unwatch(h, &a->child_watch);
	spawn_reap(&h->spawner, &a->child, &kind, &code);
	child_close(&a->child);
	if (a->deadline_ms == 0)
		return; /* decided, and killed by us */
	log_event(LOG_WARNING, "the trial of KVM ended early", LOG_STR("STDERR", words));
	trial_end(h, false, false);
}

/* A slot without a running VM: no user is shared with a guest. */
static int free_user(const struct helper *h)
{
	for (uint32_t i = h->config.max_vms; i-- > 0;)
		if (!vm_is_up(&h->vms[i]))
			return (int)i;
	return -EBUSY;
}

static int trial_start(struct helper *h, const struct image_fds *image)
{
	struct accel *a = &h->accel;
	struct spawn_spec spec = {.program = PROGRAM_TRIAL};
	_cleanup_close_ int theirs = -EBADF;
	int fds[FD_ROLES], pair[2], r = free_user(h);

	if (r < 0)
		return r;
	spec.slot = (uint32_t)r;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return -errno;
	a->console = pair[0];
	theirs = pair[1];
	for (size_t i = 0; i < FD_ROLES; i++)
		fds[i] = -EBADF;
	fds[FD_CONSOLE] = theirs;
	fds[FD_KERNEL] = image->kernel;
	r = spawn_child(&h->spawner, &spec, fds, &a->child);
	if (r < 0) {
		a->console = safe_close(a->console);
		return r;
	}
	a->n_text = 0;
	a->started_ms = loop_now_ms();
	a->deadline_ms = a->started_ms + h->config.kvm_trial_seconds * MSEC_PER_SEC;
	r = loop_watch(h, &a->console_watch, a->console, on_trial_console, a);
	return r < 0 ? r : loop_watch(h, &a->child_watch, a->child.pidfd, on_trial_exit, a);
}

bool accel_ready(struct helper *h)
{
	struct image_fds image = {-EBADF, -EBADF, -EBADF};
	char name[PROTO_NAME_SIZE];
	int r;

	if (h->accel.rec.accel != PROTO_ACCEL_UNDECIDED)
		return true;
	if (h->accel.deadline_ms != 0)
		return false;
	r = image_find_kernel(h->image_fd, name);
	if (r == 0)
		r = image_open(h->image_fd, name, &image, NULL);
	if (r == 0)
		r = trial_start(h, &image);
	image_close(&image);
	if (r == 0)
		return false;
	/* Nothing to try with now: emulation for this start, and the question stays open. */
	h->accel.rec.reason = PROTO_ACCEL_NO_KERNEL;
	log_event(LOG_WARNING, "KVM cannot be tried yet; emulation is used", LOG_ERRNO(r));
	return true;
}

void accel_expire(struct helper *h, uint64_t now_ms)
{
	if (h->accel.deadline_ms != 0 && now_ms >= h->accel.deadline_ms)
		trial_end(h, false, true);
}
