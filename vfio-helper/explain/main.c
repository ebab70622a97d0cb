/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio-explain: what the machine's GPUs are judged to be, by the code that decides.
 *
 *   vfio-explain [--explain] [--sysfs DIR [--proc DIR]] [--config FILE]
 *
 * Judges and prints, writes nothing else. Another sysfs than /sys has no processes unless --proc
 * names them, and with any privilege it is refused. Without --config it is /etc/qudata/helper.conf,
 * or what that would say if it were empty. Exits with 0, 1 when it could not read, 2 for its
 * arguments.
 * Trust: runs as anyone; reads arguments, helper.conf, sysfs and procfs, writes only its output.
 */
#include "vfio-helper/explain/explain.h"

#include "vfio-helper/bind/bind.h"
#include "vfio-helper/bind/lease.h"
#include "vfio-helper/config.h"

#include <fcntl.h>
#include <getopt.h>
#include <linux/capability.h>
#include <sys/syscall.h>

#define CONFIG_PATH "/etc/qudata/helper.conf"
#define EXIT_USAGE  2

struct options {
	const char *sysfs, *proc, *config;
};

static bool is_privileged(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

	return getuid() == 0 || geteuid() == 0 || syscall(SYS_capget, &header, data) < 0 ||
	       data[0].permitted != 0 || data[1].permitted != 0;
}

static int read_options(int argc, char *argv[], struct options *ret_options, struct err *reterr)
{
	static const struct option known[] = {{"explain", no_argument, NULL, 'e'},
					      {"sysfs", required_argument, NULL, 's'},
					      {"proc", required_argument, NULL, 'p'},
					      {"config", required_argument, NULL, 'c'},
					      {0}};
	bool real;
	int c;

	*ret_options = (struct options){.sysfs = "/sys"};
	opterr = 0;
	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
		if (c == 's')
			ret_options->sysfs = optarg;
		else if (c == 'p')
			ret_options->proc = optarg;
		else if (c == 'c')
			ret_options->config = optarg;
		else if (c != 'e')
			return err_set(
				reterr, -EINVAL,
				"usage: vfio-explain [--sysfs DIR [--proc DIR]] [--config FILE]");
	if (optind != argc)
		return err_set(reterr, -EINVAL, "%s: takes no such argument", argv[optind]);
	real = STR_EQ(ret_options->sysfs, "/sys");
	if ((!real || ret_options->proc) && is_privileged())
		return err_set(
			reterr, -EPERM,
			"with privilege only /sys is read: use another sysfs or procfs as an "
			"ordinary user");
	/* Processes of this machine hold nothing of another one. */
	if (real && !ret_options->proc)
		ret_options->proc = "/proc";
	return 0;
}

static int load_config(const char *path, struct config *ret_config, struct err *reterr)
{
	if (!path && access(CONFIG_PATH, F_OK) == 0)
		path = CONFIG_PATH;
	return config_load(path, ret_config, reterr);
}

/* Leases, quarantines and holders, as far as whoever asks may see them. */
static int gather_state(const char *state_dir, const struct gpu_policy *policy, int sysfs_fd,
			int proc_fd, struct pci_tree *tree, struct gpu_state *ret_state)
{
	_cleanup_close_ int state_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = 0;

	/* Without the file of locks there are no records, and nothing is to be made here. */
	if (state_fd >= 0 && faccessat(state_fd, BIND_LOCK, R_OK | W_OK, 0) == 0)
		r = records_state(state_fd, "", ret_state);
	if (r == 0)
		r = gpu_survey(sysfs_fd, policy, ret_state, NULL, 0, tree);
	return r < 0 ? r : gpu_find_holders(sysfs_fd, proc_fd, tree, ret_state);
}

static int explain(const struct options *options, struct err *reterr)
{
	struct gpu_policy policy;
	struct config config;
	_cleanup_(pci_tree_done) struct pci_tree tree = {0};
	_cleanup_(gpu_state_done) struct gpu_state state = {0};
	_cleanup_(gpu_list_done) struct gpu_list list = {0};
	_cleanup_close_ int sysfs_fd = -EBADF, proc_fd = -EBADF;
	int r = load_config(options->config, &config, reterr);

	if (r == 0)
		r = gpu_policy_parse(&config.gpu, &policy, reterr);
	if (r < 0)
		return r;
	sysfs_fd = open(options->sysfs, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (sysfs_fd < 0)
		return err_errno(reterr, -errno, "cannot read %s", options->sysfs);
	if (options->proc)
		proc_fd = open(options->proc, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = pci_scan(sysfs_fd, &tree, reterr);
	if (r < 0)
		return r;
	r = gather_state(config.gpu.state_dir, &policy, sysfs_fd, proc_fd, &tree, &state);
	if (r == 0)
		r = gpu_judge(&tree, &policy, &state, &list);
	if (r == 0)
		r = gpu_explain(&tree, &list, stdout);
	return r < 0 ? err_errno(reterr, r, "cannot explain") : 0;
}

int main(int argc, char *argv[])
{
	struct options options;
	struct err err = {0};
	int r = read_options(argc, argv, &options, &err);

	if (r < 0) {
		(void)fprintf(stderr, "vfio-explain: %s\n", err.text);
		return EXIT_USAGE;
	}
	r = explain(&options, &err);
	if (r < 0)
		(void)fprintf(stderr, "vfio-explain: %s\n", err.text);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
