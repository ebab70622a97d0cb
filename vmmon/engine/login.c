/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two things that SSH into a container takes, side by side: a file with keys, and an sshd.
 * Trust: runs in vmmon; reads answers of a container engine in a guest, and what programs of the
 * tenant's image print.
 */
#include "vmmon/engine/login.h"

#include "common/pubkey.h"
#include "vmmon/engine/answers.h"
#include "vmmon/engine/call.h"
#include "vmmon/engine/exec.h"
#include "vmmon/engine/keyfile.h"

#define KEYS_MS      30000  /* of silence */
#define SERVE_MS     180000 /* emulated guests take their time to make host keys */
#define INSTALL_MS   (15 * 60 * 1000)
#define STARTED_SIZE 64
#define PATH_SIZE    192

/* What the scripts below exit with. */
enum {
	EXIT_SERVED = 0,
	EXIT_NO_SSHD = 3,    /* but a package manager that may have one */
	EXIT_NOTHING = 4,    /* neither */
	EXIT_SILENT = 5,     /* an sshd does not come up */
	EXIT_NO_SHELL = 126, /* 126 and 127, as the engine says it */
};

#define SCRIPT_PATH                                                                                \
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH\n"

/*
 * Makes sure that something listens on port 22 (0x16) of the container, and prints its host key.
 * An sshd that the image brings gets the time to come up by itself: ours would take its port. It is
 * known by the name of a process, or because the container's command names it.
 */
static const char serve_script[] = SCRIPT_PATH
	"listens() {\n"
	"	for f in /proc/net/tcp /proc/net/tcp6; do\n"
	"		[ -r $f ] || continue\n"
	"		while read -r n l r s x; do\n"
	"			case $l.$s in *:0016.0A) return 0;; esac\n"
	"		done <$f\n"
	"	done\n"
	"	return 1\n"
	"}\n"
	"own() {\n"
	"	case $(cat /proc/1/cmdline | tr '\\0' ' ') in *sshd*|*dropbear*) return 0;; esac\n"
	"	for f in /proc/[0-9]*/comm; do\n"
	"		read -r c <$f && case $c in sshd|dropbear) return 0;; esac\n"
	"	done\n"
	"	return 1\n"
	"} 2>/dev/null\n"
	"nap() { sleep 0.1 2>/dev/null || sleep 1; }\n"
	"i=0\n"
	"while ! listens; do\n"
	"	i=$((i+1))\n"
	"	[ $i -le 600 ] || exit 5\n"
	"	[ $i -le 50 ] || own || break\n"
	"	nap\n"
	"done\n"
	"if ! listens; then\n"
	"	s=$(command -v sshd) || {\n"
	"		for p in apt-get apk dnf microdnf yum zypper; do\n"
	"			command -v $p >/dev/null && exit 3\n"
	"		done\n"
	"		exit 4\n"
	"	}\n"
	"	ssh-keygen -A >/dev/null 2>&1\n"
	"	mkdir -p /run/sshd\n"
	"	$s -p 22 -o PasswordAuthentication=no -o ChallengeResponseAuthentication=no \\\n"
	"		-o PermitRootLogin=prohibit-password \\\n"
	"		-o 'AuthorizedKeysFile=.ssh/authorized_keys .ssh/authorized_keys2' \\\n"
	"		</dev/null >/dev/null 2>&1 || exit 5\n"
	"	i=0\n"
	"	while ! listens; do\n"
	"		i=$((i+1))\n"
	"		[ $i -le 300 ] || exit 5\n"
	"		nap\n"
	"	done\n"
	"fi\n"
	"f=/etc/ssh/ssh_host_ed25519_key.pub\n"
	"[ -r $f ] && read -r t k x <$f && echo \"key $t $k\"\n"
	"exit 0\n";

static const char install_script[] =
	SCRIPT_PATH "exec </dev/null >/dev/null 2>&1\n"
		    "export DEBIAN_FRONTEND=noninteractive\n"
		    "has() { command -v $1; }\n"
		    "if has apt-get; then\n"
		    "	wait='-o DPkg::Lock::Timeout=300'\n"
		    "	apt-get $wait update\n"
		    "	exec apt-get $wait -y --no-install-recommends install openssh-server\n"
		    "fi\n"
		    "has apk && exec apk --wait 300 add --no-cache openssh-server openssh-keygen\n"
		    "for p in dnf microdnf yum; do\n"
		    "	has $p && exec $p -y install openssh-server\n"
		    "done\n"
		    "has zypper && exec zypper -n install openssh-server\n"
		    "exit 4\n";

static const char *const serve_argv[] = {"sh", "-c", serve_script, NULL};
static const char *const install_argv[] = {"sh", "-c", install_script, NULL};

struct login {
	struct login_config config;
	struct login_status status;
	char *keys; /* owned; NULL: no list was set yet */
	size_t keys_len;
	bool runs; /* the container */
	unsigned int version;
	char container[ANSWER_ID_SIZE], started[STARTED_SIZE];
	bool installed;   /* was tried in this run */
	struct call *put; /* owned; the keys on their way */
	bool put_again;   /* there is a newer list */
	bool served;      /* the sshd is up, which is told when the keys are there */
	char served_key[LOGIN_KEY_SIZE];
	struct exec *exec; /* owned */
};

static void tell(struct login *l, enum proto_login place, const char *host_key, const char *words)
{
	struct login_status next = {.place = place};

	(void)snprintf(next.host_key, sizeof(next.host_key), "%s", host_key);
	(void)snprintf(next.words, sizeof(next.words), "%s", words);
	if (memcmp(&next, &l->status, sizeof(next)) == 0)
		return;
	l->status = next;
	l->config.on_status(l->config.ctx);
}

/* The keys. */

static void put_keys(struct login *l);

static void on_put(void *arg, const struct call_result *result)
{
	struct login *l = arg;
	bool refused = result->error == 0 && result->status != 200;

	call_free(TAKE_PTR(l->put));
	if (l->put_again) {
		put_keys(l);
		return;
	}
	if (refused) { /* no /root, or it may not be written */
		exec_free(TAKE_PTR(l->exec));
		tell(l, PROTO_LOGIN_VM, "",
		     "the keys cannot be written to /root/.ssh of the container");
	} else if (l->served) {
		tell(l, PROTO_LOGIN_CONTAINER, l->served_key, "");
	}
	l->served = false;
	l->config.on_keys(l->config.ctx);
}

static void put_keys(struct login *l)
{
	_cleanup_free_ char *archive = NULL;
	size_t len = 0;
	char path[PATH_SIZE];
	struct call_request request = {
		.method = "PUT",
		.path = path,
		.type = "application/x-tar",
		.silence_ms = KEYS_MS,
		.arg = l,
		.on_done = on_put,
	};

	l->put_again = false;
	archive = keyfile_archive(l->keys, l->keys_len, &len);
	request.body = archive;
	request.body_len = len;
	(void)snprintf(path, sizeof(path),
		       "/v%u.%u/containers/%s/archive?path=" KEYFILE_HOME "&noOverwriteDirNonDir=1",
		       l->version / 1000, l->version % 1000, l->container);
	if (!archive || call_start(l->config.base, l->config.link, &request, &l->put) < 0) {
		l->put = NULL; /* the connection is gone, and with it this run */
		l->config.on_keys(l->config.ctx);
	}
}

/* The sshd. */

bool login_find_key(const char *output, size_t len, char ret_key[static LOGIN_KEY_SIZE])
{
	static const char word[] = "key ";
	_cleanup_free_ char *text = strndup(output, len);
	char *rest = NULL;

	for (char *line = text ? strtok_r(text, "\n", &rest) : NULL; line;
	     line = strtok_r(NULL, "\n", &rest)) {
		struct pubkey key;

		if (strncmp(line, word, sizeof(word) - 1) != 0)
			continue;
		line += sizeof(word) - 1;
		if (pubkey_parse(line, strlen(line), &key, NULL) < 0 ||
		    strncmp(key.type, "ssh-ed25519 ", 12) != 0)
			return false;
		(void)snprintf(ret_key, LOGIN_KEY_SIZE, "ssh-ed25519 %.*s", (int)key.base64_len,
			       key.base64);
		return true;
	}
	return false;
}

static void run(struct login *l, const char *const *argv);

static void served(struct login *l, unsigned int exit_code, const char *output, size_t len)
{
	char key[LOGIN_KEY_SIZE] = "";

	if (exit_code == EXIT_SERVED) {
		(void)login_find_key(output, len, key);
		l->served = l->put != NULL;
		memcpy(l->served_key, key, sizeof(key));
		if (!l->served)
			tell(l, PROTO_LOGIN_CONTAINER, key, "");
	} else if (exit_code == EXIT_NO_SSHD && !l->installed) {
		l->installed = true;
		tell(l, PROTO_LOGIN_TRYING, "",
		     "the image has no sshd: openssh-server is being installed in the container");
		run(l, install_argv);
	} else if (exit_code == EXIT_NO_SSHD) {
		tell(l, PROTO_LOGIN_VM, "",
		     "the image has no sshd, and openssh-server could not be installed");
	} else if (exit_code == EXIT_NOTHING) {
		tell(l, PROTO_LOGIN_VM, "", "the image has no sshd and no known package manager");
	} else if (exit_code == EXIT_SILENT) {
		tell(l, PROTO_LOGIN_VM, "", "the container's sshd does not start");
	} else {
		tell(l, PROTO_LOGIN_VM, "",
		     exit_code >= EXIT_NO_SHELL ? "the image has no shell, so no sshd is started"
						: "looking for the container's sshd has failed");
	}
}

static void on_served(void *arg, int r, unsigned int exit_code, const char *output, size_t len)
{
	struct login *l = arg;
	struct exec *x = TAKE_PTR(l->exec);

	if (r == 0)
		served(l, exit_code, output, len);
	else
		tell(l, PROTO_LOGIN_VM, "", "no program can be run in the container");
	exec_free(x); /* the output is its */
}

static void on_installed(void *arg, int r, unsigned int exit_code, const char *output, size_t len)
{
	struct login *l = arg;

	/* However it went: what counts is whether there is an sshd now. */
	(void)r;
	(void)exit_code;
	(void)output;
	(void)len;
	exec_free(TAKE_PTR(l->exec));
	run(l, serve_argv);
}

static void run(struct login *l, const char *const *argv)
{
	bool serves = argv == serve_argv;
	const struct exec_request request = {
		.version = l->version,
		.container = l->container,
		.argv = argv,
		.limit_ms = serves ? SERVE_MS : INSTALL_MS,
		.arg = l,
		.on_done = serves ? on_served : on_installed,
	};

	if (exec_start(l->config.base, l->config.link, &request, &l->exec) == 0)
		return;
	l->exec = NULL;
	tell(l, PROTO_LOGIN_VM, "", "no program can be run in the container");
}

/* From outside. */

struct login *login_new(const struct login_config *config)
{
	struct login *l = calloc(1, sizeof(*l));

	if (l)
		l->config = *config;
	return l;
}

void login_free(struct login *l)
{
	if (!l)
		return;
	call_free(l->put);
	exec_free(l->exec);
	free(l->keys);
	free(l);
}

void login_begin(struct login *l, unsigned int version, const char *container, const char *started)
{
	if (l->runs && STR_EQ(l->container, container) &&
	    strncmp(l->started, started, sizeof(l->started) - 1) == 0)
		return;
	login_stop(l);
	l->runs = true;
	l->version = version;
	(void)snprintf(l->container, sizeof(l->container), "%s", container);
	(void)snprintf(l->started, sizeof(l->started), "%s", started);
	tell(l, PROTO_LOGIN_TRYING, "", "the container's sshd is being looked for");
	if (l->keys)
		put_keys(l);
	run(l, serve_argv);
}

void login_stop(struct login *l)
{
	bool busy = login_keys_busy(l);

	call_free(TAKE_PTR(l->put));
	exec_free(TAKE_PTR(l->exec));
	l->runs = l->installed = l->put_again = l->served = false;
	tell(l, PROTO_LOGIN_NONE, "", "");
	if (busy)
		l->config.on_keys(l->config.ctx);
}

int login_set_keys(struct login *l, const char *text, size_t len)
{
	char *copy = malloc(len + 1);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, text, len);
	free(l->keys);
	l->keys = copy;
	l->keys_len = len;
	if (!l->runs)
		return 0;
	if (l->put)
		l->put_again = true;
	else
		put_keys(l);
	return 0;
}

bool login_keys_busy(const struct login *l)
{
	return l->put != NULL;
}

const struct login_status *login_status(const struct login *l)
{
	return &l->status;
}
