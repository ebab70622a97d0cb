/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of what a container on this host has of its own: wishes, limits, and the socket of the
 * engine.
 * Trust: a test; reads nothing from outside.
 */
#include "common/ipc.h"
#include "vmmon/engine/answers.h"
#include "vmmon/engine/link_unix.h"
#include "vmmon/engine/wish.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>
/* cmocka wants those above first */
#include <cmocka.h>

#define INSTANCE "00112233aabbccdd"
#define GPU_A    "GPU-0000000a-1111-2222-3333-444444444444"
#define GPU_B    "GPU-0000000b-1111-2222-3333-444444444444"
#define MIG_3    "MIG-00000003-1111-2222-3333-444444444444"
#define LIMITS   "\"cpus\":2,\"memory_mib\":512,\"publish\":[[22,10001],[80,20000]]"

static int parse(const char *text, struct wish *wish)
{
	return wish_parse(text, strlen(text), INSTANCE, wish, NULL);
}

static void test_names(void **state)
{
	char name[WISH_NAME_SIZE];

	(void)state;
	wish_name(NULL, name);
	assert_string_equal(name, "qudata");
	wish_name(INSTANCE, name);
	assert_string_equal(name, "qudata-" INSTANCE);
	wish_volume(INSTANCE, name);
	assert_string_equal(name, "qudata-" INSTANCE "-data");
}

static void test_wish(void **state)
{
	static const char *const parts[] = {
		"\"80/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"20000\"}]",
		"\"22/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"10001\"}]",
		"\"Binds\":[\"qudata-" INSTANCE "-data:/data\"]",
		"\"CapDrop\":[\"ALL\"]",
		"\"LogConfig\":{\"Config\":{\"max-size\":\"16m\"},\"Type\":\"json-file\"}",
		"\"CpuPeriod\":100000,\"CpuQuota\":200000",
		"\"Memory\":536870912,\"MemorySwap\":536870912",
		"\"NetworkMode\":\"qudata-" INSTANCE "\"",
		"\"PidsLimit\":4096",
		"\"Privileged\":false",
		"\"SecurityOpt\":[\"no-new-privileges\"]",
		"\"qudata.instance\":\"" INSTANCE "\"",
	};
	static const char *const never[] = {"0.0.0.0",   "MKNOD",    "NET_RAW",
					    "SYS_ADMIN", "NanoCpus", "StorageOpt"};
	struct wish wish;

	(void)state;
	assert_int_equal(parse("{\"image\":\"a\"," LIMITS "}", &wish), 0);
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		if (!strstr(wish.create, parts[i]))
			fail_msg("no %s in %s", parts[i], wish.create);
	for (size_t i = 0; i < ARRAY_LEN(never); i++)
		assert_null(strstr(wish.create, never[i]));
	assert_non_null(strstr(wish.create, wish.hash));
	assert_non_null(strstr(wish.network, "\"Name\":\"qudata-" INSTANCE "\""));
	assert_null(wish.create_unbounded);
	wish_done(&wish);
}

static void test_disk(void **state)
{
	struct wish wish, other;

	(void)state;
	assert_int_equal(parse("{\"image\":\"a\",\"disk_mib\":300," LIMITS "}", &wish), 0);
	assert_non_null(strstr(wish.create, "\"StorageOpt\":{\"size\":\"300m\"}"));
	assert_null(strstr(wish.create_unbounded, "StorageOpt"));
	/* Whether the engine can limit it is not part of what is wanted. */
	assert_int_equal(parse("{\"image\":\"a\"," LIMITS "}", &other), 0);
	assert_string_equal(wish.hash, other.hash);
	wish_done(&wish);
	wish_done(&other);
}

/* Where NVIDIA's runtime is the default, the variable alone gives GPUs away. */
static void test_gpus(void **state)
{
	struct wish wish;

	(void)state;
	assert_int_equal(parse("{\"image\":\"a\",\"env\":{\"NVIDIA_VISIBLE_DEVICES\":\"all\","
			       "\"B\":\"c\"}," LIMITS "}",
			       &wish),
			 0);
	assert_null(strstr(wish.create, "NVIDIA_VISIBLE_DEVICES=all"));
	assert_non_null(strstr(wish.create, "\"NVIDIA_VISIBLE_DEVICES=void\""));
	assert_non_null(strstr(wish.create, "\"B=c\""));
	assert_null(strstr(wish.create, "DeviceRequests"));
	wish_done(&wish);
	assert_int_equal(parse("{\"image\":\"a\",\"env\":{\"NVIDIA_VISIBLE_DEVICES\":\"all\"},"
			       "\"gpu_ids\":[\"" GPU_A "\",\"" MIG_3 "\"],\"disk_mib\":300," LIMITS
			       "}",
			       &wish),
			 0);
	assert_string_equal(wish.gpu_names, GPU_A "," MIG_3);
	assert_non_null(strstr(wish.create,
			       "[{\"Capabilities\":[[\"gpu\"]],\"DeviceIDs\":"
			       "[\"" GPU_A "\",\"" MIG_3 "\"],\"Driver\":\"nvidia\"}]"));
	assert_null(strstr(wish.create, "\"Count\""));
	assert_non_null(strstr(wish.create, "\"NVIDIA_VISIBLE_DEVICES=" GPU_A "," MIG_3 "\""));
	assert_null(strstr(wish.create, "NVIDIA_VISIBLE_DEVICES=all"));
	/* Each way of giving them with and without a limit of the disk. */
	assert_non_null(strstr(wish.create, "StorageOpt"));
	assert_non_null(strstr(wish.create_unbounded, "\"Driver\":\"nvidia\""));
	assert_null(strstr(wish.create_unbounded, "StorageOpt"));
	assert_non_null(strstr(wish.create_cdi, "\"nvidia.com/gpu=" MIG_3 "\""));
	assert_non_null(strstr(wish.create_cdi, "StorageOpt"));
	assert_non_null(strstr(wish.create_cdi_unbounded, "\"nvidia.com/gpu=" MIG_3 "\""));
	assert_null(strstr(wish.create_cdi_unbounded, "StorageOpt"));
	wish_done(&wish);
}

/*
 * What else NVIDIA's toolkit goes by, in the tenant's hand or the image's: each variable is there
 * once and with our value, which comes before the image's.
 */
static void test_devices(void **state)
{
	static const struct {
		const char *name, *value[2]; /* without GPUs and with them */
	} ours[] = {
		{"NVIDIA_VISIBLE_DEVICES", {"void", "0,2"}},
		{"DOCKER_RESOURCE_GPU", {"void", "0,2"}},
		{"NVIDIA_GDRCOPY", {"disabled", "disabled"}},
		{"NVIDIA_GDS", {"disabled", "disabled"}},
		{"NVIDIA_MOFED", {"disabled", "disabled"}},
		{"NVIDIA_NVSWITCH", {"disabled", "disabled"}},
		{"NVIDIA_IMEX_CHANNELS", {"void", "void"}},
		{"NVIDIA_MIG_CONFIG_DEVICES", {"", ""}},
		{"NVIDIA_MIG_MONITOR_DEVICES", {"", ""}},
		{"NVIDIA_REQUIRE_JETPACK", {"", ""}},
	};

	(void)state;
	for (size_t i = 0; i < 2 * ARRAY_LEN(ours); i++) {
		const char *name = ours[i / 2].name, *at;
		char text[512], part[128];
		struct wish wish;

		(void)snprintf(text, sizeof(text),
			       "{\"image\":\"a\",\"env\":{\"%s\":\"enabled\",\"%s_X\":\"y\"}%s,%s}",
			       name, name, i % 2 ? ",\"gpu_ids\":[\"0\",\"2\"]" : "", LIMITS);
		assert_int_equal(parse(text, &wish), 0);
		(void)snprintf(part, sizeof(part), "\"%s=", name);
		at = strstr(wish.create, part);
		assert_non_null(at);
		assert_null(strstr(at + 1, part));
		(void)snprintf(part, sizeof(part), "\"%s=%s\"", name, ours[i / 2].value[i % 2]);
		assert_memory_equal(at, part, strlen(part));
		/* Another variable whose name begins alike is the tenant's. */
		(void)snprintf(part, sizeof(part), "\"%s_X=y\"", name);
		assert_non_null(strstr(wish.create, part));
		wish_done(&wish);
	}
}

static void test_one_gpu(void **state)
{
	(void)state;
	assert_true(gpuname_may_be_one("1", 1, "1", 1));
	assert_false(gpuname_may_be_one("1", 1, "12", 2));
	assert_true(gpuname_may_be_one(GPU_A "," GPU_B, 40, GPU_A, 40));
	assert_false(gpuname_may_be_one(GPU_A, 40, GPU_B, 40));
	assert_true(gpuname_may_be_one("0", 1, GPU_A, 40));
	assert_true(gpuname_may_be_one("MIG-a", 5, "7", 1));
}

/* Port 22 of the container under the port of this host that leads to its sshd. */
static void test_ssh(void **state)
{
	struct wish wish;

	(void)state;
	assert_int_equal(parse("{\"image\":\"a\",\"cpus\":1,\"memory_mib\":1,\"publish\":[[80,"
			       "20000]],\"ssh\":10001}",
			       &wish),
			 0);
	assert_true(wish.ssh);
	assert_non_null(strstr(wish.create,
			       "\"22/tcp\":[{\"HostIp\":\"127.0.0.1\",\"HostPort\":\"10001\"}]"));
	assert_non_null(strstr(wish.create, "\"80/tcp\""));
	wish_done(&wish);
	assert_int_equal(parse("{\"image\":\"a\"," LIMITS "}", &wish), 0);
	assert_false(wish.ssh); /* port 22 is published, and what listens there is the image's */
	wish_done(&wish);
}

static void test_volume(void **state)
{
	static const struct {
		json_int_t mib;
		bool podman;
		const char *options;
	} cases[] = {
		{0, false, "\"DriverOpts\":{}"},
		{0, true, "\"DriverOpts\":{}"},
		{300, false, "\"DriverOpts\":{\"size\":\"300m\"}"},
		{300, true, "\"DriverOpts\":{\"o\":\"size=300m\"}"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		_cleanup_free_ char *text =
			wish_host_volume(INSTANCE, cases[i].mib, cases[i].podman);

		assert_non_null(strstr(text, cases[i].options));
		assert_non_null(strstr(text, "\"Name\":\"qudata-" INSTANCE "-data\""));
		assert_non_null(
			strstr(text, "\"Labels\":{\"" WISH_INSTANCE "\":\"" INSTANCE "\"}"));
	}
}

static void test_things(void **state)
{
	static const char ours[] = "{\"Name\":\"a\",\"Labels\":{\"" WISH_INSTANCE "\":\"i\"},"
				   "\"Options\":{\"size\":\"1m\"}}";
	static const char podmans[] = "{\"Name\":\"a\",\"Labels\":null,"
				      "\"Options\":{\"o\":\"size=1m\"}}";
	static const char bare[] = "{\"Name\":\"a\",\"Labels\":{},\"Options\":{\"o\":\"noatime\"}}";
	static const char info[] = "{\"DockerRootDir\":\"/var/lib/docker\"}";
	struct answer_thing thing;
	char path[ANSWER_PATH_SIZE];

	(void)state;
	assert_int_equal(answer_thing(ours, strlen(ours), &thing), 0);
	assert_string_equal(thing.owner, "i");
	assert_true(thing.bounded);
	assert_int_equal(answer_thing(podmans, strlen(podmans), &thing), 0);
	assert_string_equal(thing.owner, "");
	assert_true(thing.bounded);
	assert_int_equal(answer_thing(bare, strlen(bare), &thing), 0);
	assert_false(thing.bounded);
	assert_int_equal(answer_thing("{}", 2, &thing), -EBADMSG);
	assert_int_equal(answer_root(info, strlen(info), path), 0);
	assert_string_equal(path, "/var/lib/docker");
	assert_int_equal(answer_root("{\"DockerRootDir\":\"x\"}", 21, path), 0);
	assert_string_equal(path, "");
}

/* What is told to those who set the host up: of a real engine, and of one that says little. */
static void test_info(void **state)
{
	static const char docker[] =
		"{\"Driver\":\"overlay2\",\"DriverStatus\":[[\"Backing Filesystem\",\"xfs\"],[7],"
		"\"x\",[\"Supports d_type\",\"true\"]],\"DockerRootDir\":\"/var/lib/docker\","
		"\"MemoryLimit\":true,\"CpuCfsQuota\":true,\"PidsLimit\":false,\"CgroupVersion\":"
		"\"2\",\"SecurityOptions\":[\"name=seccomp\",\"name=rootless\"],"
		"\"ServerVersion\":\"20.10\\u001b\"}";
	static const char little[] = "{\"Driver\":\"vfs\",\"CgroupVersion\":\"3\"}";
	struct answer_info info;

	(void)state;
	assert_int_equal(answer_info(docker, strlen(docker), &info), 0);
	assert_true(info.memory && info.cpus && !info.processes && info.rootless);
	assert_int_equal(info.cgroup, 2);
	assert_string_equal(info.version, "20.10?");
	assert_string_equal(info.driver, "overlay2");
	assert_string_equal(info.backing, "xfs");
	assert_string_equal(info.root, "/var/lib/docker");
	assert_int_equal(answer_info(little, strlen(little), &info), 0);
	assert_true(!info.memory && !info.rootless && info.cgroup == 0);
	assert_string_equal(info.backing, "");
	assert_string_equal(info.root, "");
	assert_int_equal(answer_info("{}", 2, &info), -EBADMSG);
	assert_int_equal(answer_info("[", 1, &info), -EBADMSG);
}

static void test_bad_wishes(void **state)
{
	static const char *const bad[] = {
		"{\"image\":\"a\"}",
		"{\"image\":\"a\",\"cpus\":1,\"memory_mib\":1}",
		"{\"image\":\"a\",\"publish\":[],\"memory_mib\":1}",
		"{\"image\":\"a\",\"publish\":[],\"cpus\":1}",
		"{\"image\":\"a\",\"publish\":[],\"cpus\":0,\"memory_mib\":1}",
		"{\"image\":\"a\",\"publish\":[],\"cpus\":513,\"memory_mib\":1}",
		"{\"image\":\"a\",\"publish\":[],\"cpus\":1,\"memory_mib\":9223372036854775807}",
		"{\"image\":\"a\",\"publish\":[],\"cpus\":1,\"memory_mib\":1,\"disk_mib\":-1}",
		"{\"image\":\"a\",\"publish\":[80],\"cpus\":1,\"memory_mib\":1}",
		"{\"image\":\"a\",\"publish\":[[80]],\"cpus\":1,\"memory_mib\":1}",
		"{\"image\":\"a\",\"publish\":[[80,0]],\"cpus\":1,\"memory_mib\":1}",
		"{\"image\":\"a\",\"publish\":[[80,65536]],\"cpus\":1,\"memory_mib\":1}",
		"{\"image\":\"a\",\"publish\":[[80,8080,1]],\"cpus\":1,\"memory_mib\":1}",
		"{\"image\":\"a\",\"publish\":[[\"80\",8080]],\"cpus\":1,\"memory_mib\":1}",
		"{\"image\":\"a\",\"publish\":{},\"cpus\":1,\"memory_mib\":1}",
		"{\"image\":\"a\",\"ports\":[80]," LIMITS "}",
		"{\"image\":\"a\",\"ssh\":65536," LIMITS "}",
		"{\"image\":\"a\",\"gpus\":1," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":\"0\"," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[0]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"0,1\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"-1\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"0\",\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\","
		"\"8\",\"9\",\"10\",\"11\",\"12\",\"13\",\"14\",\"15\",\"16\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"all\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"0\",\"all\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"none\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"01\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"1:0\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"GPU-\"]," LIMITS "}",
		/* Prefixes: engines take them, so two would be one GPU. */
		"{\"image\":\"a\",\"gpu_ids\":[\"GPU-0000000a\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"" GPU_A "0\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"GPU-all\"]," LIMITS "}",
		"{\"image\":\"a\",\"gpu_ids\":[\"mode=gds\"]," LIMITS "}",
	};
	static const char in_guest[] = "{\"image\":\"a\"," LIMITS "}";
	struct wish wish;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (parse(bad[i], &wish) == 0)
			fail_msg("taken: %s", bad[i]);
	assert_int_equal(wish_parse(in_guest, strlen(in_guest), NULL, &wish, NULL), -EINVAL);
}

static void test_limits(void **state)
{
	static const struct {
		const char *body;
		int r;
		bool has;
	} cases[] = {
		{"{\"MemoryLimit\":true,\"CpuCfsQuota\":true,\"PidsLimit\":true}", 0, true},
		{"{\"MemoryLimit\":true,\"CpuCfsQuota\":false,\"PidsLimit\":true}", 0, false},
		{"{\"MemoryLimit\":true,\"PidsLimit\":true}", -EBADMSG, false},
		{"{\"MemoryLimit\":1,\"CpuCfsQuota\":true,\"PidsLimit\":true}", -EBADMSG, false},
		{"[]", -EBADMSG, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		bool has = false;

		assert_int_equal(answer_has_limits(cases[i].body, strlen(cases[i].body), &has),
				 cases[i].r);
		assert_int_equal(has, cases[i].has);
	}
	assert_int_equal(trouble_of("--storage-opt is supported only for overlay over xfs with "
				    "'pquota' mount option"),
			 TROUBLE_QUOTA);
}

/* The engine's socket. */

struct seen {
	struct event_base *base;
	char text[64];
	size_t len;
	bool ended;
	int r;
};

static void on_writable(void *arg)
{
	(void)arg;
}

static int on_data(void *arg, const uint8_t *data, size_t len)
{
	struct seen *s = arg;

	assert_true(s->len + len < sizeof(s->text));
	memcpy(s->text + s->len, data, len);
	s->len += len;
	return 0;
}

static void on_end(void *arg, int r)
{
	struct seen *s = arg;

	assert_false(s->ended);
	s->ended = true;
	s->r = r;
	(void)event_base_loopbreak(s->base);
}

static void test_link(void **state)
{
	char dir[] = "/tmp/test-engine-host.XXXXXX", path[64];
	struct seen s = {.base = event_base_new()};
	const struct link_handler handler = {&s, on_writable, on_data, on_end};
	struct link_unix_config config = {.base = s.base, .path = path, .rootful = true};
	struct engine_link *link;
	struct link_conn *conn = NULL;
	struct ucred peer;
	char word[8] = "";
	int listening, fd;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	link = link_unix_new(&config);
	assert_int_equal(link->open(link, &handler, &conn), -ENOENT);
	listening = ipc_listen(path, SOCK_STREAM, 0600, IPC_KEEP_GID, NULL);
	assert_true(listening >= 0);
	assert_int_equal(link->open(link, &handler, &conn), 0);
	assert_int_equal(link->send(conn, "ping", 4), 4);
	fd = ipc_accept(listening, &peer);
	assert_true(fd >= 0);
	assert_int_equal(read(fd, word, sizeof(word)), 4);
	assert_int_equal(write(fd, "pong", 4), 4);
	(void)close(fd);
	assert_int_equal(event_base_dispatch(s.base), 0);
	assert_true(s.ended && s.r == 0);
	assert_memory_equal(s.text, "pong", 4);
	assert_true(link->send(conn, "more", 4) < 0);
	link->close(conn);
	link_unix_free(link);

	/* Who listens decides, not who owns the file. */
	config.rootful = false;
	link = link_unix_new(&config);
	assert_int_equal(link->open(link, &handler, &conn), geteuid() == 0 ? -EPERM : 0);
	if (geteuid() != 0)
		link->close(conn);
	link_unix_free(link);
	(void)close(listening);
	(void)unlink(path);
	(void)rmdir(dir);
	event_base_free(s.base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),   cmocka_unit_test(test_wish),
		cmocka_unit_test(test_disk),    cmocka_unit_test(test_gpus),
		cmocka_unit_test(test_devices), cmocka_unit_test(test_one_gpu),
		cmocka_unit_test(test_ssh),     cmocka_unit_test(test_volume),
		cmocka_unit_test(test_things),  cmocka_unit_test(test_bad_wishes),
		cmocka_unit_test(test_info),    cmocka_unit_test(test_limits),
		cmocka_unit_test(test_link),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
