/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nvml-probe: asks NVML once about the GPUs of the host's own driver, tells agentd, and ends. Two
 * processes: a reader that runs the driver's library, and this one, which bounds it in time, checks
 * what it says, and stays for as long as anything of it is left.
 * Trust: runs as qudata-nvml without capabilities; reads one datagram of its reader.
 */
#include "agentd/probe/read.h"
#include "common/ipc.h"
#include "common/log.h"
#include "common/priv.h"

#include "nvml-probe.filter.h"  /* generated from nvml-probe.allow */
#include "nvml-reader.filter.h" /* generated from nvml-reader.allow */

#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define LIBRARY     "libnvidia-ml.so.1"
#define CLIENT_FD   0     /* the connection, as the service manager passes it */
#define REPORT_FD   3     /* the reader's */
#define READ_MS     30000 /* GPUs that nobody has open are started first, one after the other */
#define KILL_MS     2000
#define READER_CPU  20 /* seconds */
#define READER_FDS  256
#define NO_TIME_OUT (-1)

struct probe {
	const char *library;
	bool print;      /* for a person, on standard output */
	int client;      /* -EBADF with print */
	int from_reader; /* owned */
	int pidfd;       /* owned; of the reader */
	unsigned int read_ms;
};

/* ---- the reader ---- */

/*
 * What a reader could send its parent, by abort()'s call or as the owner's signal of a socket: the
 * parent does not hear it.
 */
static int mask_signals_of_reader(int how)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGABRT);
	(void)sigaddset(&set, SIGIO);
	return sigprocmask(how, &set, NULL);
}

static void limit(int resource, rlim_t value)
{
	const struct rlimit both = {value, value};

	if (setrlimit(resource, &both) < 0)
		_exit(1);
}

/*
 * No limit of its address space: the library maps the GPUs' registers, and the sanitizers much
 * more. What it takes of memory is bounded by the service's cgroup.
 */
static void confine_reader(int fd, pid_t parent)
{
	struct err why = {0};
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || null_fd < 0 ||
	    mask_signals_of_reader(SIG_UNBLOCK) < 0)
		_exit(1);
	for (int i = 0; i < REPORT_FD; i++)
		if (dup2(null_fd, i) < 0)
			_exit(1);
	if (dup2(fd, REPORT_FD) < 0 || close_range(REPORT_FD + 1, ~0U, 0) < 0)
		_exit(1);
	limit(RLIMIT_CPU, READER_CPU);
	limit(RLIMIT_NOFILE, READER_FDS);
	if (priv_enter_filter("nvml-reader", filter_nvml_reader, filter_nvml_reader_len, &why) < 0)
		_exit(1);
}

_noreturn_ static void become_reader(const struct probe *p, int fd, pid_t parent)
{
	const struct proto_header header = {.op = PROBE_REPORT, .len = sizeof(struct probe_report)};
	struct probe_report report;

	confine_reader(fd, parent);
	stage_enter(STAGE_SECCOMP);
	stage_enter(STAGE_RUN);
	read_nvml(p->library, &report);
	_exit(ipc_send(REPORT_FD, &header, &report, NULL, 0) < 0);
}

static int start_reader(struct probe *p, struct err *reterr)
{
	pid_t parent = getpid(), pid;
	int fd;

	if (mask_signals_of_reader(SIG_BLOCK) < 0)
		return err_errno(reterr, -errno, "cannot set up signals");
	pid = ipc_fork(0, &fd, reterr);
	if (pid < 0)
		return pid;
	if (pid == 0)
		become_reader(p, fd, parent);
	p->from_reader = fd;
	p->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	return p->pidfd < 0 ? err_errno(reterr, -errno, "cannot watch the reader") : 0;
}

/* ---- waiting for it ---- */

enum end {
	END_READER, /* it has ended */
	END_CLIENT, /* nobody waits for the answer any more */
	END_TIME,
};

/* @client: -EBADF when it does not matter whether it goes away. */
static enum end wait_end(const struct probe *p, int client, int timeout_ms)
{
	struct pollfd wait[] = {{.fd = p->pidfd, .events = POLLIN},
				{.fd = client, .events = POLLIN | POLLRDHUP}};
	int r;

	do /* a signal makes it a little longer, no more: none is expected */
		r = poll(wait, ARRAY_LEN(wait), timeout_ms);
	while (r < 0 && errno == EINTR);
	if (wait[0].revents != 0)
		return END_READER;
	return r > 0 ? END_CLIENT : END_TIME;
}

static void end_reader(const struct probe *p)
{
	(void)syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0);
}

/* What became of a reader that has ended by itself. */
static void reap(const struct probe *p, struct probe_report *ret_report)
{
	_cleanup_(fdlist_done) struct fdlist none = {0};
	uint8_t bytes[PROTO_MSG_MAX];
	siginfo_t info = {0};
	ssize_t n;

	*ret_report = (struct probe_report){.version = PROBE_VERSION, .state = PROBE_CRASHED};
	if (waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED) < 0)
		return;
	if (info.si_code != CLD_EXITED) {
		ret_report->detail = (uint32_t)info.si_status;
		return;
	}
	n = ipc_recv_fds(p->from_reader, bytes, sizeof(bytes), &none, 0);
	if (info.si_status == 0 && n > 0)
		(void)probe_decode(bytes, (size_t)n, ret_report);
}

/* ---- telling ---- */

static void print_figure(const char *what, uint32_t value, const char *unit)
{
	if (value != PROBE_UNKNOWN)
		(void)printf(" %s %u%s", what, value, unit);
}

static void print_report(const struct probe_report *r)
{
	(void)printf("%s: %s", probe_state_word(r->state), probe_state_text(r->state));
	if (r->detail != 0)
		(void)printf(" (%u)", r->detail);
	(void)putchar('\n');
	if (r->driver[0] != '\0')
		(void)printf("driver %s\n", r->driver);
	if (r->cuda != 0)
		(void)printf("cuda %u.%u\n", r->cuda / 1000, r->cuda % 1000 / 10);
	for (uint32_t i = 0; i < r->n_gpus; i++) {
		const struct probe_gpu *g = &r->gpus[i];

		(void)printf("%04x:%02x:%02x.%x %s \"%s\"", (unsigned int)(g->address >> 16),
			     (unsigned int)(g->address >> 8 & 0xff),
			     (unsigned int)(g->address >> 3 & 0x1f), (unsigned int)(g->address & 7),
			     g->uuid, g->name);
		print_figure("busy", g->percent, " %");
		print_figure("heat", g->celsius, " C");
		print_figure("memory", g->used_mib, " MiB");
		print_figure("of", g->total_mib, " MiB");
		print_figure("power", g->milliwatts, " mW");
		(void)putchar('\n');
	}
	if (r->left_out > 0)
		(void)printf("%u more could not be read\n", r->left_out);
	(void)fflush(stdout);
}

static void tell(const struct probe *p, const struct probe_report *report)
{
	const struct proto_header header = {.op = PROBE_REPORT, .len = sizeof(*report)};
	int r;

	if (p->print) {
		print_report(report);
		return;
	}
	r = ipc_send(p->client, &header, report, NULL, 0);
	if (r < 0 && r != -EPIPE)
		log_event(LOG_WARNING, "the answer cannot be sent", LOG_ERRNO(r));
}

static void tell_state(const struct probe *p, enum probe_state state)
{
	const struct probe_report report = {.version = PROBE_VERSION, .state = state};

	tell(p, &report);
}

/* Returns when nothing of the reader is left, whenever that is. */
static void serve(const struct probe *p)
{
	struct probe_report report;
	enum end end = wait_end(p, p->client, (int)p->read_ms);

	if (end == END_READER) {
		reap(p, &report);
		tell(p, &report);
		return;
	}
	end_reader(p);
	if (end == END_CLIENT) {
		(void)wait_end(p, -EBADF, NO_TIME_OUT);
		return;
	}
	if (wait_end(p, -EBADF, KILL_MS) == END_READER) {
		tell_state(p, PROBE_LATE);
		return;
	}
	tell_state(p, PROBE_HUNG);
	(void)wait_end(p, -EBADF, NO_TIME_OUT);
}

/* ---- the start ---- */

static void usage(FILE *f)
{
	(void)fputs("usage: nvml-probe [--library FILE] [--timeout SECONDS] [--print]\n"
		    "       nvml-probe --help | --version\n"
		    "Asks NVML about the GPUs of the host's driver, once; see nvml-probe(8).\n",
		    f);
}

/* 0 to go on, 1 when all is done, -EINVAL. */
static int parse(int argc, char *argv[], struct probe *p)
{
	static const struct option table[] = {
		{"library", required_argument, NULL, 'l'},
		{"timeout", required_argument, NULL, 't'},
		{"print", no_argument, NULL, 'p'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{0},
	};
	unsigned int seconds;
	char end;
	int c;

	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (c) {
		case 'l':
			p->library = optarg;
			break;
		case 't':
			if (sscanf(optarg, "%3u%c", &seconds, &end) != 1 || seconds == 0)
				return -EINVAL;
			p->read_ms = seconds * MSEC_PER_SEC;
			break;
		case 'p':
			p->print = true;
			break;
		case 'h':
			usage(stdout);
			return 1;
		case 'V':
			(void)puts("nvml-probe " QUDATA_VERSION);
			return 1;
		default:
			return -EINVAL;
		}
	}
	return optind == argc ? 0 : -EINVAL;
}

static int open_client(struct probe *p, struct err *reterr)
{
	int type = 0;
	socklen_t len = sizeof(type);

	p->client = -EBADF;
	if (p->print)
		return 0;
	if (getsockopt(CLIENT_FD, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
		return err_set(reterr, -EINVAL,
			       "it is for the service manager to start, at agentd's wish; people "
			       "use --print");
	p->client = CLIENT_FD;
	return 0;
}

static int start(struct probe *p, struct err *reterr)
{
	int r;

	stage_enter(STAGE_OPEN);
	r = open_client(p, reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_DROP);
	r = priv_drop(/* keep= */ 0, reterr);
	if (r == 0)
		r = start_reader(p, reterr);
	if (r < 0)
		return r;
	stage_enter(STAGE_SECCOMP);
	r = priv_enter_filter("nvml-probe", filter_nvml_probe, filter_nvml_probe_len, reterr);
	if (r == 0)
		stage_enter(STAGE_RUN);
	return r;
}

int main(int argc, char *argv[])
{
	struct probe p = {.library = LIBRARY, .read_ms = READ_MS};
	struct err why = {0};
	int r = priv_sane_start(argc, 0, &why);

	log_open("nvml-probe", LOG_INFO);
	stage_enter(STAGE_CONFIG);
	if (r == 0)
		r = parse(argc, argv, &p);
	if (r == -EINVAL && why.text[0] == '\0')
		usage(stderr);
	if (r != 0)
		return r < 0 ? 2 : 0;
	r = start(&p, &why);
	if (r < 0) {
		log_event(LOG_ERR, "cannot run", LOG_STR("REASON", why.text));
		return 1;
	}
	serve(&p);
	return 0;
}
