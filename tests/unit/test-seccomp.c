/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One process's system-call filter against the list that it was made from: every number by running
 * the filter here, and the dangerous ones by loading it into a child. Built once per list, always
 * in the killing mode, with
 *   FILTER_HEADER  the generated header      FILTER_LIST  the .allow file
 *   FILTER         the array's name          FILTER_DIR   where @name includes are
 * Trust: runs in tests only.
 */
#include "common/priv.h"
#include "tests/unit/rig.h"

#include FILTER_HEADER

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#define PASTE_(a, b) a##b
#define PASTE(a, b)  PASTE_(a, b)
#define FILTER_LEN   PASTE(FILTER, _len)
#define NUMBERS      1024
#define ENOSYS_RULE  (SECCOMP_RET_ERRNO | ENOSYS)
#define X32_BIT      0x40000000

struct rule {
	int number;
	bool conditional;
	unsigned int arg;
	uint64_t mask, value;
};

static struct rule rules[512];
static size_t n_rules;
static bool includes_base, refuses; /* refuses: what is not listed is not fatal */

static void read_rules(const char *path)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	char line[512], name[64], rest[256], include[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		struct rule *r = &rules[n_rules];
		long long mask = -1, value = 0;

		line[strcspn(line, "#\n")] = '\0';
		rest[0] = '\0';
		if (sscanf(line, "%63s %255[^\n]", name, rest) < 1)
			continue;
		if (STR_EQ(name, "refuse")) {
			refuses = true;
			continue;
		}
		if (name[0] == '@') {
			includes_base |= STR_EQ(name, "@base");
			(void)snprintf(include, sizeof(include), "%s/%s.allow", FILTER_DIR,
				       name + 1);
			read_rules(include);
			continue;
		}
		r->number = seccomp_syscall_resolve_name(name);
		if (r->number < 0) /* of another architecture */
			continue;
		r->conditional =
			sscanf(rest, "arg%u & %lli == %lli", &r->arg, &mask, &value) == 3 ||
			sscanf(rest, "arg%u == %lli", &r->arg, &value) == 2;
		if (!r->conditional)
			assert_true(rest[strspn(rest, " \t")] == '\0');
		else if (!strchr(rest, '&'))
			mask = -1;
		r->mask = (uint64_t)mask;
		r->value = (uint64_t)value;
		assert_true(++n_rules < ARRAY_LEN(rules));
	}
}

static bool rule_holds(const struct rule *r, const struct seccomp_data *d)
{
	return r->number == d->nr && (!r->conditional || (d->args[r->arg] & r->mask) == r->value);
}

static bool listed(int number)
{
	for (size_t i = 0; i < n_rules; i++)
		if (rules[i].number == number)
			return true;
	return false;
}

/* What the format promises for that call, from the list's text alone. */
static uint32_t promised(const struct seccomp_data *d)
{
	char *name;

	if (d->arch != AUDIT_ARCH_X86_64 || (uint32_t)d->nr >= X32_BIT)
		return SECCOMP_RET_KILL_PROCESS;
	for (size_t i = 0; i < n_rules; i++)
		if (rule_holds(&rules[i], d))
			return SECCOMP_RET_ALLOW;
	if (listed(d->nr))
		return ENOSYS_RULE;
	name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, d->nr);
	free(name);
	return name && !refuses ? SECCOMP_RET_KILL_PROCESS : ENOSYS_RULE;
}

static size_t jump(const struct sock_filter *f, uint32_t a)
{
	bool taken;

	switch (BPF_OP(f->code)) {
	case BPF_JA:
		return f->k;
	case BPF_JEQ:
		taken = a == f->k;
		break;
	case BPF_JGT:
		taken = a > f->k;
		break;
	case BPF_JGE:
		taken = a >= f->k;
		break;
	case BPF_JSET:
		taken = (a & f->k) != 0;
		break;
	default:
		fail_msg("unknown jump %#x", f->code);
		return 0;
	}
	return taken ? f->jt : f->jf;
}

/* The kernel's interpreter, as far as libseccomp uses it. */
static uint32_t run_filter(const struct seccomp_data *data)
{
	uint32_t a = 0;

	for (size_t pc = 0; pc < FILTER_LEN; pc++) {
		const struct sock_filter *f = &FILTER[pc];

		switch (BPF_CLASS(f->code)) {
		case BPF_LD:
			assert_int_equal(f->code, BPF_LD | BPF_W | BPF_ABS);
			assert_true(f->k + sizeof(a) <= sizeof(*data));
			memcpy(&a, (const uint8_t *)data + f->k, sizeof(a));
			break;
		case BPF_ALU:
			assert_int_equal(f->code, BPF_ALU | BPF_AND | BPF_K);
			a &= f->k;
			break;
		case BPF_JMP:
			pc += jump(f, a);
			break;
		case BPF_RET:
			return f->k;
		default:
			fail_msg("unknown instruction %#x", f->code);
		}
	}
	fail_msg("the filter has no end");
	return 0;
}

static void check_call(const struct seccomp_data *d, const char *what)
{
	uint32_t want = promised(d), got = run_filter(d);

	if (got != want)
		fail_msg("%s: call %d, arch %#x: %#x, promised %#x", what, d->nr, d->arch, got,
			 want);
}

static void test_every_number(void **state)
{
	static const uint64_t args[] = {0, 1, UINT32_MAX, UINT64_MAX, 1ULL << 32, 1ULL << 63};

	(void)state;
	/* -1 is what a tracer leaves of a call that it cancelled. */
	assert_true(run_filter(&(struct seccomp_data){.nr = -1, .arch = AUDIT_ARCH_X86_64}) !=
		    SECCOMP_RET_ALLOW);
	for (int nr = 0; nr < NUMBERS; nr++)
		for (size_t i = 0; i < ARRAY_LEN(args); i++) {
			struct seccomp_data d = {.nr = nr, .arch = AUDIT_ARCH_X86_64};

			for (size_t k = 0; k < 6; k++)
				d.args[k] = args[i];
			check_call(&d, "native");
			d.nr = nr | X32_BIT;
			check_call(&d, "x32");
			d.nr = nr;
			d.arch = AUDIT_ARCH_I386;
			check_call(&d, "i386");
			d.arch = AUDIT_ARCH_AARCH64;
			check_call(&d, "another machine");
		}
}

static void test_conditions(void **state)
{
	(void)state;
	for (size_t i = 0; i < n_rules; i++) {
		const struct rule *r = &rules[i];
		struct seccomp_data d = {.nr = r->number, .arch = AUDIT_ARCH_X86_64};

		if (!r->conditional) {
			assert_int_equal(run_filter(&d), SECCOMP_RET_ALLOW);
			continue;
		}
		assert_true((r->value & ~r->mask) == 0); /* or it could never hold */
		d.args[r->arg] = r->value;
		assert_int_equal(run_filter(&d), SECCOMP_RET_ALLOW);
		for (unsigned int bit = 0; bit < 64; bit++) {
			d.args[r->arg] = r->value ^ UINT64_C(1) << bit;
			check_call(&d, "one bit of the condition");
		}
		d.args[r->arg] = ~r->mask | r->value;
		check_call(&d, "every bit beside the mask");
	}
}

/* Nothing of the suite has any business with these, not even what starts QEMU. */
static const int never[] = {
	SYS_ptrace,
	SYS_open_by_handle_at,
	SYS_kexec_load,
	SYS_kexec_file_load,
	SYS_init_module,
	SYS_finit_module,
	SYS_delete_module,
	SYS_bpf,
	SYS_perf_event_open,
	SYS_process_vm_readv,
	SYS_process_vm_writev,
	SYS_userfaultfd,
	SYS_io_uring_setup,
	SYS_reboot,
	SYS_swapon,
	SYS_iopl,
	SYS_ioperm,
	SYS_keyctl,
	SYS_add_key,
	SYS_request_key,
	SYS_settimeofday,
	SYS_clock_settime,
	SYS_adjtimex,
	SYS_acct,
	SYS_quotactl,
	SYS_personality,
	SYS_kcmp,
	SYS_pidfd_getfd,
};

/* And these belong to the processes that start others only. */
static const int spawners_only[] = {SYS_execve, SYS_execveat, SYS_fork,    SYS_vfork,
				    SYS_mount,  SYS_setns,    SYS_unshare, SYS_pivot_root,
				    SYS_chroot, SYS_setresuid};

static bool is_spawner(void)
{
	return strstr(FILTER_LIST, "-spawn.allow") != NULL ||
	       strstr(FILTER_LIST, "/vfio-helper.allow") != NULL;
}

/* Of a program that a spawner becomes: loaded before the execve(), which is the last of it. */
static bool is_spawned(void)
{
	return strstr(FILTER_LIST, "/vm-qemu") != NULL ||
	       strstr(FILTER_LIST, "/frpc.allow") != NULL;
}

static void load(void)
{
	const struct rlimit no_core = {0, 0};
	struct err err = {0};

	(void)setrlimit(RLIMIT_CORE, &no_core);
	RIG_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	RIG_CHECK(priv_enter_filter(FILTER_LIST, FILTER, FILTER_LEN, &err) == 0);
}

static int make_call(void *arg)
{
	load();
	/* Arguments that do nothing, should the call be let through. */
	if (syscall(*(const long *)arg, -1L, -1L, -1L, -1L, -1L, -1L) < 0 && errno == ENOSYS)
		return 3;
	return 0;
}

/*
 * Fatal; or, where a list names it with a condition that makes it harmless, or has nothing fatal,
 * as if it did not exist.
 */
static void assert_kills(long number)
{
	int status = rig_in_child(make_call, &number);

	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
		return;
	if ((!refuses && !listed((int)number)) || !WIFEXITED(status) || WEXITSTATUS(status) != 3)
		fail_msg("call %ld is not fatal: status %#x", number, (unsigned int)status);
}

static void test_dangerous_calls(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(never); i++)
		assert_kills(never[i]);
	for (size_t i = 0; i < ARRAY_LEN(spawners_only) && !is_spawner(); i++)
		if (spawners_only[i] != SYS_execve || !is_spawned())
			assert_kills(spawners_only[i]);
	assert_kills(X32_BIT | SYS_close);
	assert_kills(X32_BIT | SYS_execve);
}

static int make_harmless_calls(void *arg)
{
	(void)arg;
	load();
	RIG_CHECK(syscall(SYS_close, -1) < 0 && errno == EBADF);
	RIG_CHECK(syscall(SYS_read, -1, NULL, 0) < 0 && errno == EBADF);
	RIG_CHECK(syscall(SYS_fcntl, 0, 1 /* F_GETFD */) >= 0 || errno == EBADF);
	RIG_CHECK(syscall(999) < 0 && errno == ENOSYS);
	RIG_CHECK(syscall(NUMBERS - 1) < 0 && errno == ENOSYS);
	free(malloc(1 << 20));
	return 0;
}

static void test_harmless_calls(void **state)
{
	(void)state;
	assert_int_equal(rig_in_child(make_harmless_calls, NULL), 0);
}

/* The 32-bit way into the kernel: close(-1), which is on every list under its 64-bit number. */
static int enter_as_i386(void *arg)
{
	long r = 6;

	(void)arg;
	load();
	__asm__ volatile("int $0x80" : "+a"(r) : "b"(-1L) : "memory", "r8", "r9", "r10", "r11");
	return 0;
}

static void test_i386_entry(void **state)
{
	int status = rig_in_child(enter_as_i386, NULL);

	(void)state;
	/* A kernel without that entry answers it with SIGSEGV. */
	assert_true(WIFSIGNALED(status));
	assert_true(WTERMSIG(status) == SIGSYS || WTERMSIG(status) == SIGSEGV);
}

/* A process that reads strangers' bytes cannot make memory executable. */
static void test_no_executable_memory(void **state)
{
	static const int calls[] = {SYS_mmap, SYS_mprotect, SYS_pkey_mprotect};

	(void)state;
	if (is_spawner() || (!includes_base && !strstr(FILTER_LIST, "base.allow"))) {
		print_message("skipped: QEMU translates code\n");
		skip();
	}
	for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
		struct seccomp_data d = {.nr = calls[i], .arch = AUDIT_ARCH_X86_64};

		for (uint64_t prot = PROT_EXEC; prot < 8; prot++) {
			/* Where a library is loaded, its code is mapped: never what can be written.
			 */
			if (refuses && calls[i] == SYS_mmap && !(prot & PROT_WRITE))
				continue;
			d.args[2] = prot;
			assert_true(run_filter(&d) != SECCOMP_RET_ALLOW);
		}
	}
}

static int setup(void **state)
{
	(void)state;
	read_rules(FILTER_LIST);
	assert_true(n_rules > 10);
	assert_true(FILTER_LEN > 10 && FILTER_LEN <= BPF_MAXINSNS);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_number),    cmocka_unit_test(test_conditions),
		cmocka_unit_test(test_dangerous_calls), cmocka_unit_test(test_harmless_calls),
		cmocka_unit_test(test_i386_entry),      cmocka_unit_test(test_no_executable_memory),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
