/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agentd and the root side agree: vfio-bind's own list of every board in tests/boards is
 * understood, and what agentd chooses or allows is just what vfio-bind would take. Trust: test.
 */
#include "agentd/gpus.h"
#include "vfio-helper/bind/act.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define BOARD_MAX (64 * 1024)

static const char *board_name = "";

static void expect(bool ok, const char *what)
{
	if (ok)
		return;
	(void)fprintf(stderr, "%s: %s\n", board_name, what);
	exit(1);
}

/* The helper's own word on a set of addresses. */
static bool helper_takes(const struct view *view, const uint64_t *addresses, uint32_t n)
{
	uint32_t funcs[PROTO_MAX_DEVICES], n_funcs;
	struct err why = {0};

	return gpu_choose(&view->list, &view->tree, addresses, n, funcs, &n_funcs, &why) == 0;
}

static bool agentd_allows(const struct gpus *gpus, const uint64_t *addresses, uint32_t n)
{
	uint64_t wanted[PROTO_MAX_GPUS] = {0};
	_cleanup_free_ char *why = NULL;
	int r;

	memcpy(wanted, addresses, n * sizeof(wanted[0]));
	r = gpus_check(gpus, wanted, NULL, 0, &why);
	expect(r == 0 || (why && *why), "a refusal without words");
	return r == 0;
}

static void agree_on(const struct gpus *gpus, const struct view *view, const uint64_t *addresses,
		     uint32_t n)
{
	expect(agentd_allows(gpus, addresses, n) == helper_takes(view, addresses, n),
	       "agentd and vfio-bind differ about a set");
}

/* Every GPU, and every pair. */
static void check_sets(const struct gpus *gpus, const struct view *view)
{
	for (size_t i = 0; i < gpus->n; i++) {
		uint64_t set[2] = {gpus->entries[i].card.gpu};

		agree_on(gpus, view, set, 1);
		for (size_t k = i + 1; k < gpus->n; k++) {
			set[1] = gpus->entries[k].card.gpu;
			agree_on(gpus, view, set, 2);
		}
	}
}

static void check_counts(const struct gpus *gpus, const struct view *view)
{
	for (uint32_t count = 1; count <= PROTO_MAX_GPUS; count++) {
		uint64_t chosen[PROTO_MAX_GPUS] = {0};
		_cleanup_free_ char *why = NULL;

		if (gpus_choose(gpus, count, NULL, 0, chosen, &why) < 0) {
			expect(why && *why, "no choice, and no words");
			continue;
		}
		expect(proto_gpus_count(chosen) == count, "another number than was wanted");
		expect(helper_takes(view, chosen, count), "a choice that vfio-bind would refuse");
	}
}

/* The same GPUs with the same verdicts; but one at address 0, where the protocol knows none. */
static void check_verdicts(const struct gpus *gpus, const struct view *view)
{
	size_t n = 0;

	for (size_t i = 0; i < view->list.n; i++) {
		pci_addr address = view->tree.funcs[view->list.gpus[i].func].address;
		const struct gpu_entry *entry = gpus_find(gpus, address);

		if (address == 0)
			continue;
		expect(entry && entry->card.verdict == view->list.gpus[i].verdict,
		       "another verdict");
		n++;
	}
	expect(n == gpus->n, "another number of GPUs");
}

/* A directory below the scratch one, made if it is not there. */
static int open_below(const char *scratch, const char *name)
{
	char path[128];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/%s", scratch, name);
	expect(mkdir(path, 0700) == 0 || errno == EEXIST, "no directory");
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	expect(fd >= 0, "cannot open a directory");
	return fd;
}

static void run(const char *const argv[])
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		(void)execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	expect(waitpid(pid, &status, 0) == pid && status == 0, argv[0]);
}

/* A machine with nothing but the sysfs tree of @text: no process, no record. */
static void make_machine(const char *scratch, const char *text, struct bind_env *ret_env)
{
	_cleanup_close_ int dir = open(scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char board[128], sysfs[128];
	struct config config;
	struct err why = {0};

	(void)snprintf(board, sizeof(board), "%s/board", scratch);
	(void)snprintf(sysfs, sizeof(sysfs), "%s/sys", scratch);
	expect(fd_replace_file(dir, "board", text, strlen(text), 0600) == 0, "cannot be written");
	run((const char *const[]){"rm", "-rf", sysfs, NULL});
	run((const char *const[]){"python3", FAKE_SYSFS, board, sysfs, NULL});
	expect(config_load(NULL, &config, &why) == 0, why.text);
	(void)strcpy(config.gpu.vendors, "10de, 1002, 8086");
	*ret_env = (struct bind_env){
		.keys = config.gpu,
		.max_vms = PROTO_MAX_VMS,
		.sysfs_fd = open_below(scratch, "sys"),
		.proc_fd = open_below(scratch, "proc"),
		.state_fd = open_below(scratch, "state"),
		.dev_fd = -EBADF,
		.services_fd = -EBADF,
		.lock_fd = -EBADF,
	};
	expect(gpu_policy_parse(&ret_env->keys, &ret_env->policy, &why) == 0, why.text);
}

static void machine_close(struct bind_env *env)
{
	env->sysfs_fd = safe_close(env->sysfs_fd);
	env->proc_fd = safe_close(env->proc_fd);
	env->state_fd = safe_close(env->state_fd);
}

static bool is_same_gpu(const struct view *a, const struct gpu *x, const struct view *b,
			const struct gpu *y)
{
	if (x->verdict != y->verdict || x->n_parts != y->n_parts || x->n_reasons != y->n_reasons)
		return false;
	for (uint32_t i = 0; i < x->n_parts; i++)
		if (a->tree.funcs[x->parts[i].func].address !=
			    b->tree.funcs[y->parts[i].func].address ||
		    x->parts[i].role != y->parts[i].role)
			return false;
	for (uint32_t i = 0; i < x->n_reasons; i++)
		if (x->reasons[i].reason != y->reasons[i].reason ||
		    x->reasons[i].address != y->reasons[i].address ||
		    !STR_EQ(x->reasons[i].what, y->reasons[i].what))
			return false;
	return true;
}

/* A bind reads less than a list; of its GPU it judges the same. */
static void check_alone(const struct bind_env *env, const struct view *all)
{
	for (uint32_t i = 0; i < all->list.n; i++) {
		const pci_addr address = all->tree.funcs[all->list.gpus[i].func].address;
		_cleanup_(view_done) struct view view = {0};
		uint32_t at;

		expect(view_load(env, "", &address, 1, &view, NULL) == 0, "not read alone");
		expect(view_holders(env, &view, NULL) == 0, "no holders alone");
		at = gpu_find(&view.list, &view.tree, address);
		expect(at != PCI_NO_INDEX &&
			       is_same_gpu(all, &all->list.gpus[i], &view, &view.list.gpus[at]),
		       "judged otherwise when it is read alone");
		expect(view.list.gpus[at].verdict != PROTO_GPU_RENTABLE ||
			       pci_again(env->sysfs_fd, &view.tree, NULL) == 0,
		       "another when it is read again");
	}
}

static void check_board(const char *scratch, const char *text)
{
	_cleanup_(machine_close) struct bind_env env;
	_cleanup_(gpus_done) struct gpus gpus = {0};
	_cleanup_(view_done) struct view view = {0};
	struct bind_answer ans = {0};
	struct fdlist fds = {0};
	struct gpu_list_rep rep;
	struct err why = {0};
	int fd = -EBADF;

	make_machine(scratch, text, &env);
	expect(act_list(&env, &ans, &fd, &why) == PROTO_OK, "no list");
	expect(fdlist_add(&fds, fd) == 0, "no descriptor");
	rep = (struct gpu_list_rep){ans.done, ans.list_bytes};
	expect(gpus_receive(&rep, &fds, &gpus, &why) == 0, why.text);
	expect(view_load(&env, "", NULL, 0, &view, &why) == 0, why.text);
	expect(view_holders(&env, &view, &why) == 0, why.text);
	check_verdicts(&gpus, &view);
	check_alone(&env, &view);
	check_sets(&gpus, &view);
	check_counts(&gpus, &view);
}

/* The description: what stands before the first line in brackets. */
static void read_board(int dirfd, const char *name, char text[static BOARD_MAX])
{
	ssize_t n = fd_read_file(dirfd, name, text, BOARD_MAX);
	char *cases;

	expect(n > 0, "cannot be read");
	cases = strstr(text, "\n[");
	if (cases)
		cases[1] = '\0';
}

int main(int argc, char *argv[])
{
	static char text[BOARD_MAX];
	char scratch[] = "/tmp/test-agentd-boards-XXXXXX";
	DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
	struct dirent *entry;
	unsigned int n = 0;

	if (!dir || !mkdtemp(scratch))
		return 2;
	while ((entry = readdir(dir))) {
		const char *dot = strrchr(entry->d_name, '.');

		if (!dot || !STR_EQ(dot, ".board"))
			continue;
		board_name = entry->d_name;
		read_board(dirfd(dir), entry->d_name, text);
		check_board(scratch, text);
		n++;
	}
	(void)closedir(dir);
	run((const char *const[]){"rm", "-rf", scratch, NULL});
	printf("%u boards\n", n);
	return n > 0 ? 0 : 1;
}
