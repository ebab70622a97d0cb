/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the control plane has said of tunnels, over restarts.
 * Trust: test.
 */
#include "agentd/offer.h"
#include "common/fd.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
/* cmocka wants the two above first */
#include <cmocka.h>

#define URL "https://plane.example.org/v0"

static char top[] = "/tmp/qudata-offer-XXXXXX";
static int dir_fd = -EBADF;

static const struct control_init sample = {
	.frp_port = 7000,
	.frp_server = "frp.example.org",
	.frp_token = "to-k.en",
	.frp_subdomain = "a.example.org",
	.tunnel_token = "tok",
};

static int make_top(void **state)
{
	(void)state;
	dir_fd = mkdtemp(top) ? open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	return dir_fd < 0 ? -1 : 0;
}

static int remove_top(void **state)
{
	(void)state;
	(void)unlinkat(dir_fd, "control_tunnels", 0);
	(void)safe_close(dir_fd);
	return rmdir(top);
}

static void test_comes_back(void **state)
{
	struct control_init full = sample, back;
	struct stat st;

	(void)state;
	assert_int_equal(offer_load(dir_fd, URL, &back), -ENOENT);
	assert_int_equal(offer_save(dir_fd, URL, &sample), 0);
	assert_int_equal(fstatat(dir_fd, "control_tunnels", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(offer_load(dir_fd, URL, &back), 0);
	assert_memory_equal(&back, &sample, sizeof(back));
	assert_int_equal(offer_load(dir_fd, "https://other.example.org", &back), -ENOENT);
	/* Nothing but tunnels is kept, and as long a word as there may be. */
	proto_text_set(full.secret, sizeof(full.secret), "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxx");
	full.host_exists = 1;
	memset(full.frp_token, 'x', 120);
	memset(full.tunnel_token, 'x', 120);
	memset(full.frp_server, 'x', 120);
	memset(full.frp_subdomain, 'x', 120);
	assert_int_equal(offer_save(dir_fd, URL, &full), 0);
	assert_int_equal(offer_load(dir_fd, URL, &back), 0);
	assert_string_equal(back.secret, "");
	assert_int_equal(back.host_exists, 0);
	assert_string_equal(back.frp_token, full.frp_token);
	/* No tunnels is a word, too. */
	assert_int_equal(offer_save(dir_fd, URL, &(struct control_init){0}), 0);
	assert_int_equal(offer_load(dir_fd, URL, &back), 0);
	assert_int_equal(back.frp_port, 0);
}

static void load_is_refused(const char *text, size_t len)
{
	struct control_init back = sample;

	assert_int_equal(fd_replace_file(dir_fd, "control_tunnels", text, len, 0600), 0);
	assert_true(offer_load(dir_fd, URL, &back) < 0);
	assert_memory_equal(&back, &sample, sizeof(back));
}

static void test_damaged_is_refused(void **state)
{
	static const char *const texts[] = {
		"",
		"[]",
		"null",
		"{}",
		"{\"control_plane\":\"" URL "\"}",
		"{\"control_plane\":\"" URL "\",\"server\":\"a\",\"port\":70000,\"token\":\"\","
		"\"subdomain\":\"\",\"tunnel_token\":\"\"}",
		"{\"control_plane\":\"" URL "\",\"server\":\"a\",\"port\":7000,\"token\":\"a\\nb\","
		"\"subdomain\":\"\",\"tunnel_token\":\"\"}",
		"{\"control_plane\":\"" URL "\",\"server\":\"a\",\"port\":7000,\"token\":\"{{x}}\","
		"\"subdomain\":\"\",\"tunnel_token\":\"\"}",
		"{\"control_plane\":\"" URL "\",\"server\":\"\",\"port\":7000,\"token\":\"\","
		"\"subdomain\":\"\",\"tunnel_token\":\"\"}",
	};
	char text[2048];
	ssize_t len;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		load_is_refused(texts[i], strlen(texts[i]));
	assert_int_equal(offer_save(dir_fd, URL, &sample), 0);
	len = fd_read_file(dir_fd, "control_tunnels", text, sizeof(text));
	assert_true(len > 0);
	for (size_t i = 0; i < (size_t)len; i++)
		load_is_refused(text, i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_comes_back),
		cmocka_unit_test(test_damaged_is_refused),
	};

	return cmocka_run_group_tests(tests, make_top, remove_top);
}
