/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records on disk: what is written comes back, what is damaged is kept and shown.
 * Trust: test.
 */
#include "agentd/store.h"

#include "common/fd.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
/* cmocka wants the two above first */
#include <cmocka.h>

#define KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICW+hJCWuo50RrP/NlSoUiybmtUhiglewSC8ZFcgLNtR"

static char dir_path[64];
static int dir_fd;

static int setup(void **state)
{
	(void)state;
	(void)strcpy(dir_path, "/tmp/test-agentd-store-XXXXXX");
	if (!mkdtemp(dir_path))
		return -1;
	dir_fd = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir_fd < 0;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	(void)close(dir_fd);
	(void)snprintf(command, sizeof(command), "rm -rf %s", dir_path);
	return system(command);
}

static struct instance *sample(void)
{
	struct instance *inst = instance_new(NULL);

	assert_non_null(inst);
	(void)strcpy(inst->name, "my-vm");
	(void)strcpy(inst->image, "debian-12");
	inst->cpus = 3;
	inst->memory_mib = 2048;
	inst->disk_mib = 4096;
	inst->created_s = 1700000000;
	inst->bare = true;
	inst->ports[0] = (struct proto_port){.host = 10001, .guest = 22};
	inst->ports[1] = (struct proto_port){.host = 20000, .guest = 8080};
	inst->gpus[0] = 0x100;
	inst->gpus[1] = 0x1000081ff;
	inst->tenant = json_pack("{s:s}", "password", "p4ss");
	inst->run = (struct run){
		.goal = GOAL_STOP,
		.restart = RESTART_STARTING,
		.fault = FAULT_BOOT,
		.started_generation = UINT64_MAX,
		.ready_generation = 5,
		.prepared = true,
		.had_keys = true,
		.keys_on_disk = true,
		.since_s = 1700000001,
		.boot_id = "b",
		.host_key = KEY,
		.error = "an \"error\"",
		.note = "a note",
	};
	assert_int_equal(instance_key_add(inst, KEY " me"), 1);
	return inst;
}

static void free_list(struct instance_list *list)
{
	struct instance *inst;

	while ((inst = TAILQ_FIRST(list))) {
		TAILQ_REMOVE(list, inst, link);
		instance_free(inst);
	}
}

static struct instance *load_only(struct instance_list *list)
{
	struct err why;

	TAILQ_INIT(list);
	assert_int_equal(store_load(dir_fd, NULL, list, &why), 0);
	assert_non_null(TAILQ_FIRST(list));
	assert_null(TAILQ_NEXT(TAILQ_FIRST(list), link));
	return TAILQ_FIRST(list);
}

static void test_round_trip(void **state)
{
	struct instance *inst = sample(), *back;
	struct instance_list list;
	struct stat st;
	char name[64];

	(void)state;
	assert_int_equal(store_save(dir_fd, inst), 0);
	(void)snprintf(name, sizeof(name), "%s.json", inst->id);
	assert_int_equal(fstatat(dir_fd, name, &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	back = load_only(&list);
	assert_false(back->quarantined);
	assert_string_equal(back->id, inst->id);
	assert_string_equal(back->name, inst->name);
	assert_string_equal(back->image, inst->image);
	assert_int_equal(back->cpus, 3);
	assert_int_equal(back->memory_mib, 2048);
	assert_int_equal(back->disk_mib, 4096);
	assert_int_equal(back->created_s, inst->created_s);
	assert_true(back->bare);
	assert_memory_equal(back->ports, inst->ports, sizeof(inst->ports));
	assert_memory_equal(back->gpus, inst->gpus, sizeof(inst->gpus));
	assert_true(json_equal(back->tenant, inst->tenant));
	assert_int_equal(back->n_keys, 1);
	assert_string_equal(back->keys[0], KEY " me");
	assert_int_equal(back->run.goal, GOAL_STOP);
	assert_int_equal(back->run.restart, RESTART_STARTING);
	assert_int_equal(back->run.fault, FAULT_BOOT);
	assert_true(back->run.started_generation == UINT64_MAX);
	assert_int_equal(back->run.ready_generation, 5);
	assert_true(back->run.prepared && back->run.had_keys && back->run.keys_on_disk);
	assert_int_equal(back->run.since_s, 1700000001);
	assert_string_equal(back->run.boot_id, "b");
	assert_string_equal(back->run.host_key, KEY);
	assert_string_equal(back->run.error, "an \"error\"");
	assert_string_equal(back->run.note, "a note");
	free_list(&list);
	assert_int_equal(store_remove(dir_fd, inst->id), 0);
	assert_int_equal(store_remove(dir_fd, inst->id), 0);
	assert_int_equal(fstatat(dir_fd, name, &st, 0), -1);
	instance_free(inst);
}

static void write_file(const char *name, const char *text, size_t len)
{
	assert_int_equal(fd_replace_file(dir_fd, name, text, len, 0600), 0);
}

static void test_damaged_is_kept_and_shown(void **state)
{
	static const char name[] = "0123456789abcdef.json";
	static const char *const texts[] = {
		"", "{", "[]", "{}", "{\"version\":2}", "\xff\xfe", "null",
	};
	char back[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct instance_list list;
		struct instance *inst;

		write_file(name, texts[i], strlen(texts[i]));
		inst = load_only(&list);
		assert_true(inst->quarantined);
		assert_string_equal(inst->id, "0123456789abcdef");
		assert_int_equal(inst->run.fault, FAULT_FINAL);
		assert_non_null(strstr(inst->run.error, "0123456789abcdef.json"));
		free_list(&list);
		/* The file itself is left for whoever repairs it. */
		assert_int_equal(fd_read_file(dir_fd, name, back, sizeof(back)), strlen(texts[i]));
	}
	assert_int_equal(unlinkat(dir_fd, name, 0), 0);
}

/* Cuts and single changed bytes of a real record: never a crash, never a silent loss. */
static void test_every_byte_damaged(void **state)
{
	struct instance *inst = sample();
	char text[4096], name[64], id[PROTO_NAME_SIZE];
	ssize_t len;

	(void)state;
	memcpy(id, inst->id, sizeof(id));
	assert_int_equal(store_save(dir_fd, inst), 0);
	(void)snprintf(name, sizeof(name), "%s.json", id);
	len = fd_read_file(dir_fd, name, text, sizeof(text));
	assert_true(len > 0);
	for (size_t i = 0; i < (size_t)len; i++) {
		struct instance *a = instance_new(NULL), *b = instance_new(NULL);
		struct err why = {0};
		char was = text[i];

		memcpy(a->id, id, sizeof(id));
		memcpy(b->id, id, sizeof(id));
		assert_int_equal(store_parse(text, i, a, &why), -EINVAL);
		assert_true(why.text[0] != '\0');
		text[i] = (char)(was ^ 0x15);
		why.text[0] = '\0';
		if (store_parse(text, (size_t)len, b, &why) < 0)
			assert_true(why.text[0] != '\0');
		text[i] = was;
		instance_free(a);
		instance_free(b);
	}
	assert_int_equal(store_remove(dir_fd, id), 0);
	instance_free(inst);
}

/* A new record under the name that it has until it is on the disk, cut after each byte or whole. */
static void test_new_record_at_power_cut(void **state)
{
	struct instance_list list = TAILQ_HEAD_INITIALIZER(list);
	struct instance *inst = sample();
	char text[4096], name[64], first[64];
	struct stat st;
	struct err why;
	ssize_t len;

	(void)state;
	(void)snprintf(name, sizeof(name), "%s.json", inst->id);
	(void)snprintf(first, sizeof(first), "%s.made", inst->id);
	assert_int_equal(store_create(dir_fd, inst), 0);
	assert_int_equal(fstatat(dir_fd, name, &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(fstatat(dir_fd, first, &st, 0), -1);
	len = fd_read_file(dir_fd, name, text, sizeof(text));
	assert_true(len > 0);
	assert_int_equal(unlinkat(dir_fd, name, 0), 0);
	for (size_t i = 0; i < (size_t)len; i += 7) {
		write_file(first, text, i);
		assert_int_equal(store_load(dir_fd, NULL, &list, &why), 0);
		assert_null(TAILQ_FIRST(&list));
		assert_int_equal(fstatat(dir_fd, first, &st, 0), -1);
	}
	write_file(first, text, (size_t)len);
	for (size_t i = 0; i < 2; i++) {
		assert_string_equal(load_only(&list)->id, inst->id);
		assert_false(TAILQ_FIRST(&list)->quarantined);
		free_list(&list);
		assert_int_equal(fstatat(dir_fd, name, &st, 0), 0);
		assert_int_equal(fstatat(dir_fd, first, &st, 0), -1);
	}
	/* One that has its record already keeps it. */
	write_file(first, "{}", 2);
	assert_false(load_only(&list)->quarantined);
	free_list(&list);
	assert_int_equal(unlinkat(dir_fd, first, 0), 0);
	assert_int_equal(store_remove(dir_fd, inst->id), 0);
	instance_free(inst);
}

/* It may be whole, so it is shown, as others are that cannot be read. */
static void test_new_record_cannot_be_read(void **state)
{
	struct instance_list list;
	struct stat st;
	char first[64], name[64];
	int fd;

	(void)state;
	(void)snprintf(first, sizeof(first), "%s.made", "0123456789abcdef");
	(void)snprintf(name, sizeof(name), "%s.json", "0123456789abcdef");
	fd = openat(dir_fd, first, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)STORE_FILE_MAX + 1), 0);
	assert_int_equal(close(fd), 0);
	for (size_t i = 0; i < 2; i++) {
		assert_true(load_only(&list)->quarantined);
		assert_string_equal(TAILQ_FIRST(&list)->id, "0123456789abcdef");
		free_list(&list);
		assert_int_equal(fstatat(dir_fd, first, &st, 0), -1);
		assert_int_equal(fstatat(dir_fd, name, &st, 0), 0);
		assert_int_equal(st.st_size, (off_t)STORE_FILE_MAX + 1);
	}
	assert_int_equal(store_remove(dir_fd, "0123456789abcdef"), 0);
}

/* A directory that cannot be written: nothing of the instance is lost, nor hidden. */
static void test_new_record_cannot_get_its_name(void **state)
{
	struct instance_list list;
	struct instance *inst = sample();
	char first[64], name[64];
	struct stat st;
	int r;

	(void)state;
	(void)snprintf(name, sizeof(name), "%s.json", inst->id);
	(void)snprintf(first, sizeof(first), "%s.made", inst->id);
	assert_int_equal(store_create(dir_fd, inst), 0);
	assert_int_equal(renameat(dir_fd, name, dir_fd, first), 0);
	assert_int_equal(fchmodat(dir_fd, first, 0644, 0), 0);
	assert_int_equal(fchmod(dir_fd, 0555), 0);
	assert_true(geteuid() != 0 || seteuid(65534) == 0);
	load_only(&list);
	r = getuid() == 0 ? seteuid(0) : 0;
	assert_int_equal(r, 0);
	assert_int_equal(fchmod(dir_fd, 0700), 0);
	assert_true(TAILQ_FIRST(&list)->quarantined);
	assert_string_equal(TAILQ_FIRST(&list)->id, inst->id);
	assert_non_null(strstr(TAILQ_FIRST(&list)->run.error, first));
	free_list(&list);
	assert_int_equal(fstatat(dir_fd, first, &st, 0), 0);
	/* Deleted, it does not come back. */
	assert_int_equal(store_remove(dir_fd, inst->id), 0);
	assert_int_equal(fstatat(dir_fd, first, &st, 0), -1);
	instance_free(inst);
}

static void test_new_record_cannot_be_written(void **state)
{
	_cleanup_close_ int nowhere = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct instance *inst = sample();
	char first[64];

	(void)state;
	assert_true(store_create(nowhere, inst) < 0);
	/* What is there under that name is not this instance's. */
	(void)snprintf(first, sizeof(first), "%s.made", inst->id);
	write_file(first, "x", 1);
	assert_int_equal(store_create(dir_fd, inst), -EEXIST);
	assert_int_equal(unlinkat(dir_fd, first, 0), 0);
	instance_free(inst);
}

static void test_strange_files_are_left_alone(void **state)
{
	struct instance_list list = TAILQ_HEAD_INITIALIZER(list);
	struct stat st;
	struct err why;

	(void)state;
	write_file("notes.txt", "x", 1);
	write_file("0123456789ABCDEF.json", "x", 1);
	write_file(".0123456789abcdef.json.new", "x", 1);
	assert_int_equal(store_load(dir_fd, NULL, &list, &why), 0);
	assert_null(TAILQ_FIRST(&list));
	assert_int_equal(fstatat(dir_fd, "notes.txt", &st, 0), 0);
	assert_int_equal(unlinkat(dir_fd, "notes.txt", 0), 0);
	assert_int_equal(unlinkat(dir_fd, "0123456789ABCDEF.json", 0), 0);
	/* A link in place of a record is not followed. */
	assert_int_equal(symlinkat("/etc/passwd", dir_fd, "0123456789abcdef.json"), 0);
	assert_true(load_only(&list)->quarantined);
	free_list(&list);
	assert_int_equal(unlinkat(dir_fd, "0123456789abcdef.json", 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_damaged_is_kept_and_shown),
		cmocka_unit_test(test_every_byte_damaged),
		cmocka_unit_test(test_new_record_at_power_cut),
		cmocka_unit_test(test_new_record_cannot_be_read),
		cmocka_unit_test(test_new_record_cannot_get_its_name),
		cmocka_unit_test(test_new_record_cannot_be_written),
		cmocka_unit_test(test_strange_files_are_left_alone),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
