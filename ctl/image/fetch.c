/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getting a file: from here, or by HTTPS.
 *
 * Trust: the operator names the source. What a server sends is read by a child that has given up
 * root and hands on bytes through a pipe; its word on anything else is only shown.
 */
#include <curl/curl.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/fd.h"
#include "common/log.h"
#include "common/priv.h"
#include "ctl/image/image.h"
#include "fetch.filter.h"

#define CHUNK             (256 * 1024)
#define POLL_MS           200
#define CONNECT_TIMEOUT_S 30L
#define SLOWEST           4096L /* bytes in a second, over the stall time: less is a stall */
#define ATTEMPTS          5     /* in a row, without WORTHWHILE in between */
#define BREAKS_MAX        100
#define WORTHWHILE        (1 << 20)
#define CACERT_MAX        (1 << 20)
#define REDIRECTS_MAX     5L
#define OUT_FD            3 /* of the child */

/* What the child tells besides bytes. Read by the parent as a stranger's. */
struct told {
	uint64_t total;             /* 0: not known */
	uint32_t breaks;            /* how often the connection broke, and is tried again */
	char text[CURL_ERROR_SIZE]; /* why it failed */
};

/* ---- the child ---- */

struct download {
	CURL *curl;
	struct told *told; /* shared */
	int out;
	uint32_t stall_s;
	uint32_t attempts;   /* so far */
	uint64_t sent;       /* bytes handed on */
	char validator[200]; /* of the first answer: what tells whether a later one is the same */
	char error[CURL_ERROR_SIZE];
};

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct download *d = arg;
	curl_off_t length = -1;

	if (d->told->total == 0 &&
	    curl_easy_getinfo(d->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length) == CURLE_OK &&
	    length > 0)
		/* The length is this answer's, perhaps only of the rest. */
		d->told->total = d->sent + (uint64_t)length;
	if (fd_write_all(d->out, data, size * n) < 0)
		return 0;
	d->sent += size * n;
	return size * n;
}

/* Keeps a strong ETag, else Last-Modified, for If-Range. */
static size_t on_header(char *data, size_t size, size_t n, void *arg)
{
	static const char *const names[] = {"etag: \"", "last-modified: "};
	struct download *d = arg;
	size_t len = size * n;

	for (size_t i = 0; i < ARRAY_LEN(names) && d->sent == 0; i++) {
		size_t skip = strlen(names[i]) - (i == 0);

		if (len <= strlen(names[i]) || strncasecmp(data, names[i], strlen(names[i])) != 0)
			continue;
		while (len > 0 && (data[len - 1] == '\r' || data[len - 1] == '\n'))
			len--;
		if (i == 0 || d->validator[0] != '"')
			(void)snprintf(d->validator, sizeof(d->validator), "%.*s",
				       (int)(len - skip), data + skip);
	}
	return size * n;
}

static CURLcode attempt(struct download *d)
{
	struct curl_slist *headers = NULL;
	char line[sizeof(d->validator) + 16];
	CURLcode code;

	if (d->sent > 0 && d->validator[0] != '\0') {
		(void)snprintf(line, sizeof(line), "If-Range: %s", d->validator);
		headers = curl_slist_append(NULL, line);
	}
	curl_easy_setopt(d->curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(d->curl, CURLOPT_RESUME_FROM_LARGE, (curl_off_t)d->sent);
	code = curl_easy_perform(d->curl);
	curl_easy_setopt(d->curl, CURLOPT_HTTPHEADER, NULL);
	curl_slist_free_all(headers);
	return code;
}

static bool is_broken_off(CURLcode code)
{
	static const CURLcode codes[] = {
		CURLE_PARTIAL_FILE,       CURLE_RECV_ERROR, CURLE_SEND_ERROR,  CURLE_GOT_NOTHING,
		CURLE_OPERATION_TIMEDOUT, CURLE_HTTP2,      CURLE_HTTP2_STREAM};

	for (size_t i = 0; i < ARRAY_LEN(codes); i++)
		if (codes[i] == code)
			return true;
	return false;
}

/* What began well may find the server restarting, or the network away for a moment. */
static bool is_away(struct download *d, CURLcode code)
{
	long status = 0;

	if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST)
		return true;
	(void)curl_easy_getinfo(d->curl, CURLINFO_RESPONSE_CODE, &status);
	return code == CURLE_HTTP_RETURNED_ERROR && (status >= 500 || status == 429);
}

static bool is_worth_a_retry(struct download *d, CURLcode code)
{
	if (d->sent == 0)
		return is_broken_off(code);
	/* Without a validator nobody could tell whether it is still the same file. */
	return d->validator[0] != '\0' && (is_broken_off(code) || is_away(d, code));
}

/* A connection that broke or stalls is taken up where it ended: a few times in a row, and in all.
 */
static CURLcode download_all(struct download *d)
{
	unsigned int in_a_row = 0;
	uint64_t mark = 0;

	for (;;) {
		CURLcode code = attempt(d);

		d->attempts++;
		/* A server that has nothing left to give from there (416) is no error to libcurl.
		 */
		if (code == CURLE_OK && d->told->total != 0 && d->sent != d->told->total)
			return CURLE_BAD_DOWNLOAD_RESUME;
		if (d->sent - mark >= WORTHWHILE) {
			mark = d->sent;
			in_a_row = 0;
		}
		if (!is_worth_a_retry(d, code) || ++in_a_row >= ATTEMPTS ||
		    d->told->breaks >= BREAKS_MAX)
			return code;
		d->told->breaks++;
		(void)sleep(MIN_OF(1U << (in_a_row - 1), d->stall_s));
	}
}

#define REMEDY "try again later or elsewhere, or download it yourself and import the file"

static void explain_break(struct download *d, CURLcode code)
{
	unsigned long long sent = d->sent;
	char *text = d->told->text;
	size_t size = sizeof(d->told->text);

	if (sent > 0 && (code == CURLE_RANGE_ERROR || d->validator[0] == '\0'))
		(void)snprintf(text, size,
			       "the connection broke after %llu bytes, and the server cannot go on "
			       "from there; " REMEDY,
			       sent);
	else if (code == CURLE_OPERATION_TIMEDOUT)
		(void)snprintf(text, size,
			       "nothing or next to nothing comes for %u s, %llu bytes so far, "
			       "%u attempts; " REMEDY,
			       d->stall_s, sent, d->attempts);
	else
		(void)snprintf(text, size,
			       "the connection breaks, %llu bytes so far, %u attempts; " REMEDY,
			       sent, d->attempts);
}

static void explain(struct download *d, CURLcode code)
{
	long status = 0;
	char *text = d->told->text;
	size_t size = sizeof(d->told->text);

	(void)curl_easy_getinfo(d->curl, CURLINFO_RESPONSE_CODE, &status);
	if (code == CURLE_BAD_DOWNLOAD_RESUME)
		(void)snprintf(text, size,
			       "the server announced %llu bytes and has no more than %llu; " REMEDY,
			       (unsigned long long)d->told->total, (unsigned long long)d->sent);
	else if (code == CURLE_HTTP_RETURNED_ERROR)
		(void)snprintf(text, size, "the server answers %ld", status);
	else if (code == CURLE_UNSUPPORTED_PROTOCOL)
		(void)snprintf(text, size,
			       "the server leads on to another protocol than https: refused");
	else if (code == CURLE_RANGE_ERROR || is_broken_off(code))
		explain_break(d, code);
	else
		(void)snprintf(text, size, "%s", d->error[0] ? d->error : curl_easy_strerror(code));
}

static CURL *configure(struct download *d, const char *url, struct curl_blob *cacert)
{
	CURL *curl = curl_easy_init();

	if (!curl)
		return NULL;
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, d->error);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https");
	curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "https");
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(curl, CURLOPT_MAXREDIRS, REDIRECTS_MAX);
	curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
	curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, SLOWEST);
	curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)d->stall_s);
	curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "qudatactl/" QUDATA_VERSION);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, d);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, d);
	if (cacert->data)
		curl_easy_setopt(curl, CURLOPT_CAINFO_BLOB, cacert);
	return curl;
}

/*
 * Nothing stays open but the way to the parent, at @ret_out: neither the file into which the parent
 * writes what it has counted, nor the operator's terminal.
 */
static int keep_only(int out, int *ret_out)
{
	int high = fcntl(out, F_DUPFD_CLOEXEC, OUT_FD + 1);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (high < 0 || null < 0)
		return -errno;
	for (int fd = STDIN_FILENO; fd < OUT_FD; fd++)
		if (dup2(null, fd) < 0)
			return -errno;
	if (dup2(high, OUT_FD) < 0 || close_range(OUT_FD + 1, ~0U, 0) < 0)
		return -errno;
	*ret_out = OUT_FD;
	return 0;
}

_noreturn_ static void fetch_child(const char *url, struct curl_blob *cacert, uint32_t stall_s,
				   int out, struct told *told)
{
	struct download d = {.told = told, .stall_s = stall_s};
	struct err err = {.text = "descriptors"};
	CURLcode code;

	(void)signal(SIGINT, SIG_DFL);
	(void)signal(SIGTERM, SIG_DFL);
	(void)signal(SIGHUP, SIG_DFL);
	if (keep_only(out, &d.out) < 0 || tool_become_nobody(0, &err) < 0 ||
	    priv_enter_filter("fetch", filter_fetch, filter_fetch_len, &err) < 0) {
		(void)snprintf(told->text, sizeof(told->text), "cannot be confined: %.200s",
			       err.text);
		_exit(1);
	}
	d.curl = configure(&d, url, cacert);
	code = d.curl ? download_all(&d) : CURLE_OUT_OF_MEMORY;
	if (code != CURLE_OK)
		explain(&d, code);
	_exit(code == CURLE_OK ? 0 : 1);
}

/* ---- the parent ---- */

/* The child's word on how it goes. */
static void show_told(struct progress *progress, const struct told *told, uint32_t *breaks)
{
	uint32_t now = *(volatile const uint32_t *)&told->breaks;

	progress->total = *(volatile const uint64_t *)&told->total;
	if (now != *breaks)
		progress_remark(progress, "the connection broke or stalls: trying again");
	*breaks = now;
}

static int pump(int fd, struct sink *sink, struct progress *progress, const struct told *told)
{
	_cleanup_free_ char *data = malloc(CHUNK);
	uint32_t breaks = 0;

	if (!data)
		return -ENOMEM;
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;
		int r;

		if (interrupted())
			return -EINTR;
		if (told)
			show_told(progress, told, &breaks);
		progress_update(progress, sink->bytes);
		if (poll(&p, 1, POLL_MS) <= 0)
			continue;
		n = read(fd, data, CHUNK);
		if (n == 0)
			return sink_end(sink);
		if (n < 0 && errno != EINTR)
			return -errno;
		r = n > 0 ? sink_write(sink, data, (size_t)n) : 0;
		if (r < 0)
			return r;
	}
}

static int fetch_local(const char *path, struct sink *sink, struct progress *progress,
		       struct err *reterr)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(reterr, -errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(reterr, -EINVAL, "%s is no regular file", path);
	progress->total = (uint64_t)st.st_size;
	r = pump(fd, sink, progress, NULL);
	return r < 0 ? err_errno(reterr, r, "%s", path) : 0;
}

static int read_cacert(const char *path, char **ret_pem, struct err *reterr)
{
	ssize_t n;

	*ret_pem = NULL;
	if (!path)
		return 0;
	*ret_pem = malloc(CACERT_MAX);
	if (!*ret_pem)
		return err_set(reterr, -ENOMEM, "out of memory");
	n = fd_read_file(AT_FDCWD, path, *ret_pem, CACERT_MAX);
	return n < 0 ? err_errno(reterr, (int)n, "%s", path) : 0;
}

/* The end of the child: 0, or why it failed. */
static int reap(pid_t pid, int r, const char *url, const struct told *told, struct err *reterr)
{
	char text[sizeof(told->text)];
	int status;

	if (r < 0)
		(void)kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_errno(reterr, -errno, "cannot wait for the download");
	if (r < 0)
		return err_errno(reterr, r, "%s", url);
	memcpy(text, told->text, sizeof(text));
	text[sizeof(text) - 1] = '\0';
	if (WIFSIGNALED(status))
		return err_set(reterr, -EIO, "%s: the download was ended by signal %d", url,
			       WTERMSIG(status));
	return WEXITSTATUS(status) != 0 ? err_set(reterr, -EIO, "%s: %s", url, text) : 0;
}

static int fetch_url(const char *url, const char *pem, uint32_t stall_s, struct sink *sink,
		     struct progress *progress, struct err *reterr)
{
	struct told *told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct curl_blob blob = {.data = (void *)pem, .len = pem ? strlen(pem) : 0};
	_cleanup_close_ int in = -EBADF, out = -EBADF;
	int fds[2], r;
	pid_t pid;

	if (told == MAP_FAILED || pipe2(fds, O_CLOEXEC) < 0)
		return err_errno(reterr, -errno, "cannot begin the download");
	in = fds[0];
	out = fds[1];
	(void)curl_global_init(CURL_GLOBAL_DEFAULT); /* reads its configuration while it may */
	(void)fflush(NULL);
	pid = fork();
	if (pid == 0)
		fetch_child(url, &blob, stall_s, out, told);
	out = safe_close(out);
	if (pid < 0) {
		r = err_errno(reterr, -errno, "cannot begin the download");
	} else {
		r = pump(in, sink, progress, told);
		r = reap(pid, r, url, told, reterr);
	}
	(void)munmap(told, sizeof(*told));
	return r;
}

static int check_url(const char *url, struct err *reterr)
{
	const char *host = strstr(url, "://") + 3;

	if (strncasecmp(url, "https://", 8) != 0)
		return err_set(reterr, -EINVAL, "%s: only https: and file: are taken", url);
	if (memchr(host, '@', strcspn(host, "/?#")))
		return err_set(reterr, -EINVAL,
			       "a password does not belong into a URL, which "
			       "everyone on this host can read");
	return 0;
}

int fetch(struct ctl *c, const struct fetch *f, const char *source, const char *what,
	  struct sink *sink, struct err *reterr)
{
	_cleanup_free_ char *pem = NULL;
	struct progress progress;
	int r;

	progress_begin(&progress, c, what, 0);
	if (strncasecmp(source, "file://", 7) == 0)
		source += 7;
	if (!strstr(source, "://")) {
		r = fetch_local(source, sink, &progress, reterr);
	} else {
		r = check_url(source, reterr);
		if (r == 0)
			r = read_cacert(f->cacert, &pem, reterr);
		if (r == 0)
			r = fetch_url(source, pem, f->stall_s ? f->stall_s : FETCH_STALL_S, sink,
				      &progress, reterr);
	}
	progress_end(&progress);
	return r;
}

void fetch_basename(const char *source, char *ret_name, size_t size)
{
	size_t len = strstr(source, "://") ? strcspn(source, "?#") : strlen(source);
	size_t begin = len;

	while (begin > 0 && source[begin - 1] != '/')
		begin--;
	(void)snprintf(ret_name, size, "%.*s", (int)(len - begin), source + begin);
}
