/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Instances on disk.
 * Trust: runs inside agentd; reads back its own files, which may have been damaged.
 */
#include "agentd/store.h"

#include "agentd/gpus.h"
#include "common/fd.h"
#include "common/log.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#define VERSION    1
#define SUFFIX     ".json"
/*
 * Of a new record. It has the name above once it is on the disk, and after a power cut perhaps
 * again its first one: then it is whole, or nobody was told of it.
 */
#define NEW_SUFFIX ".made"

static const char *const goal_words[] = {
	[GOAL_RUN] = "run", [GOAL_STOP] = "stop", [GOAL_DELETE] = "delete"};
static const char *const restart_words[] = {
	[RESTART_NONE] = "none", [RESTART_STOPPING] = "stopping", [RESTART_STARTING] = "starting"};
static const char *const fault_words[] = {
	[FAULT_NONE] = "none", [FAULT_BOOT] = "boot", [FAULT_FINAL] = "final"};

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

#define _cleanup_json_ _cleanup_(cleanup_json)

/* The index of @word, or -1. */
static int find_word(const char *const words[], size_t n, const char *word)
{
	for (size_t i = 0; i < n; i++)
		if (words[i] && STR_EQ(words[i], word))
			return (int)i;
	return -1;
}

/* Writing. */

static json_t *run_to_json(const struct run *run)
{
	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:b, s:b, s:b, s:I, s:s, s:s, s:s, s:s}",
			 "goal", goal_words[run->goal], "restart", restart_words[run->restart],
			 "fault", fault_words[run->fault], "started_generation",
			 (json_int_t)run->started_generation, "ready_generation",
			 (json_int_t)run->ready_generation, "container_generation",
			 (json_int_t)run->container_generation, "prepared", run->prepared,
			 "had_keys", run->had_keys, "keys_on_disk", run->keys_on_disk, "since",
			 (json_int_t)run->since_s, "boot_id", run->boot_id, "host_key",
			 run->host_key, "error", run->error, "note", run->note);
}

static json_t *ports_to_json(const struct proto_port ports[static PROTO_MAX_PORTS])
{
	json_t *array = json_array();

	for (size_t i = 0; i < proto_ports_count(ports); i++)
		(void)json_array_append_new(
			array, json_pack("[i, i]", (int)ports[i].guest, (int)ports[i].host));
	return array;
}

/* In the order of the ports. */
static json_t *tunnels_to_json(const struct instance *inst)
{
	json_t *array = json_array();

	for (size_t i = 0; i < proto_ports_count(inst->ports); i++)
		(void)json_array_append_new(
			array, json_pack("[i, b, b]", (int)inst->tunnels[i].remote,
					 inst->tunnels[i].tcp, inst->tunnels[i].fixed));
	return array;
}

static json_t *gpus_to_json(const uint64_t gpus[static PROTO_MAX_GPUS])
{
	json_t *array = json_array();
	char text[GPUS_TEXT_SIZE];

	for (size_t i = 0; i < proto_gpus_count(gpus); i++) {
		gpus_address_text(gpus[i], text);
		(void)json_array_append_new(array, json_string(text));
	}
	return array;
}

static json_t *keys_to_json(const struct instance *inst)
{
	json_t *array = json_array();

	for (size_t i = 0; i < inst->n_keys; i++)
		(void)json_array_append_new(array, json_string(inst->keys[i]));
	return array;
}

static json_t *to_json(const struct instance *inst)
{
	return json_pack("{s:i, s:i, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:b, s:o, s:o, s:o, "
			 "s:o, s:o, s:O?}",
			 "version", VERSION, "container_ssh", (int)inst->container_ssh, "id",
			 inst->id, "name", inst->name, "image", inst->image, "status", inst->status,
			 "cpus", (int)inst->cpus, "memory_mib", (int)inst->memory_mib, "disk_mib",
			 (int)inst->disk_mib, "created_at", (json_int_t)inst->created_s, "bare",
			 inst->bare, "ports", ports_to_json(inst->ports), "tunnels",
			 tunnels_to_json(inst), "gpus", gpus_to_json(inst->gpus), "keys",
			 keys_to_json(inst), "run", run_to_json(&inst->run), "tenant",
			 inst->tenant);
}

static void file_name(const char *id, const char *suffix, char ret_name[static 64])
{
	(void)snprintf(ret_name, 64, "%s%s", id, suffix);
}

/* Records of VMs have no such members. */
static json_t *with_backend(json_t *json, const struct instance *inst)
{
	json_t *gpus;

	if (!inst->on_host)
		return json;
	gpus = json_array();
	for (size_t i = 0; i < instance_n_host_gpus(inst); i++)
		(void)json_array_append_new(gpus, json_string(inst->host_gpus[i]));
	(void)json_object_set_new(json, "backend", json_string("container"));
	(void)json_object_set_new(json, "host_gpus", gpus);
	return json;
}

/* It may hold the password of a registry. */
static void cleanup_text(char **text)
{
	if (*text)
		explicit_bzero(*text, strlen(*text));
	free(*text);
}
#define _cleanup_text_ _cleanup_(cleanup_text)

static char *record(const struct instance *inst)
{
	_cleanup_json_ json_t *json = with_backend(to_json(inst), inst);

	return json ? json_dumps(json, JSON_INDENT(1)) : NULL;
}

/*
 * Makes the file @name, which must not be there yet, durably. That costs the disk less than a
 * replacement, but a crash before it returns may leave a part of @data under that name.
 */
static int make_file(int dirfd, const char *name, const void *data, size_t len)
{
	_cleanup_close_ int fd =
		openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r;

	if (fd < 0)
		return -errno;
	r = fd_write_all(fd, data, len);
	/* With the file, most file systems have brought its name to the disk, too. */
	if (r == 0 && (fsync(fd) < 0 || fsync(dirfd) < 0))
		r = -errno;
	if (r < 0) {
		(void)unlinkat(dirfd, name, 0);
		(void)fsync(dirfd); /* best effort: it is not to come back after a crash */
	}
	return r;
}

int store_create(int dirfd, const struct instance *inst)
{
	_cleanup_text_ char *text = record(inst);
	char name[64], first[64];
	int r;

	if (!text)
		return -ENOMEM;
	file_name(inst->id, SUFFIX, name);
	file_name(inst->id, NEW_SUFFIX, first);
	r = make_file(dirfd, first, text, strlen(text));
	if (r < 0 || renameat(dirfd, first, dirfd, name) == 0)
		return r;
	r = -errno;
	(void)unlinkat(dirfd, first, 0);
	(void)fsync(dirfd); /* so that it does not come back, though nobody was told of it */
	return r;
}

int store_save(int dirfd, const struct instance *inst)
{
	_cleanup_text_ char *text = record(inst);
	char name[64];

	if (!text)
		return -ENOMEM;
	file_name(inst->id, SUFFIX, name);
	return fd_replace_file(dirfd, name, text, strlen(text), 0600);
}

int store_remove(int dirfd, const char *id)
{
	char name[64];

	file_name(id, SUFFIX, name);
	if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
		return -errno;
	/* One that has never got its final name would come back. */
	file_name(id, NEW_SUFFIX, name);
	if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
		return -errno;
	return fsync(dirfd) < 0 ? -errno : 0;
}

/* Reading. */

static int copy(char *to, size_t size, const char *text, const char *what, struct err *reterr)
{
	if (strlen(text) >= size)
		return err_set(reterr, -EINVAL, "%s is too long", what);
	(void)snprintf(to, size, "%s", text);
	return 0;
}

static int run_from_json(json_t *json, struct run *run, struct err *reterr)
{
	const char *goal, *restart, *fault, *boot_id, *host_key, *error, *note;
	json_int_t started, ready, since, container = 0;
	int prepared, had_keys, on_disk, g, s, f, r;
	json_error_t why;

	if (json_unpack_ex(json, &why, 0,
			   "{s:s, s:s, s:s, s:I, s:I, s:b, s:b, s:b, s:I, s:s, s:s, s:s, s:s, s?I}",
			   "goal", &goal, "restart", &restart, "fault", &fault,
			   "started_generation", &started, "ready_generation", &ready, "prepared",
			   &prepared, "had_keys", &had_keys, "keys_on_disk", &on_disk, "since",
			   &since, "boot_id", &boot_id, "host_key", &host_key, "error", &error,
			   "note", &note, "container_generation", &container) < 0)
		return err_set(reterr, -EINVAL, "run: %s", why.text);
	g = find_word(goal_words, ARRAY_LEN(goal_words), goal);
	s = find_word(restart_words, ARRAY_LEN(restart_words), restart);
	f = find_word(fault_words, ARRAY_LEN(fault_words), fault);
	if (g < 0 || s < 0 || f < 0)
		return err_set(reterr, -EINVAL, "run: goal, restart or fault is no known word");
	run->goal = (enum goal)g;
	run->restart = (enum restart)s;
	run->fault = (enum fault)f;
	run->started_generation = (uint64_t)started;
	run->ready_generation = (uint64_t)ready;
	run->container_generation = (uint64_t)container;
	run->since_s = since;
	run->prepared = prepared;
	run->had_keys = had_keys;
	run->keys_on_disk = on_disk;
	r = copy(run->boot_id, sizeof(run->boot_id), boot_id, "run: boot_id", reterr);
	if (r == 0)
		r = copy(run->host_key, sizeof(run->host_key), host_key, "run: host_key", reterr);
	if (r == 0)
		r = copy(run->error, sizeof(run->error), error, "run: error", reterr);
	return r == 0 ? copy(run->note, sizeof(run->note), note, "run: note", reterr) : r;
}

static int ports_from_json(const json_t *array, struct proto_port ports[static PROTO_MAX_PORTS],
			   struct err *reterr)
{
	size_t n = json_array_size(array);

	if (!json_is_array(array) || n > PROTO_MAX_PORTS)
		return err_set(reterr, -EINVAL, "ports is no list of at most %d", PROTO_MAX_PORTS);
	for (size_t i = 0; i < n; i++) {
		int guest, host;

		if (json_unpack(json_array_get(array, i), "[i, i]", &guest, &host) < 0 ||
		    guest < 1 || guest > UINT16_MAX || host < 1 || host > UINT16_MAX)
			return err_set(reterr, -EINVAL, "ports holds something else than ports");
		ports[i] = (struct proto_port){.guest = (uint16_t)guest, .host = (uint16_t)host};
	}
	return 0;
}

/* Records of versions that knew no tunnels have no such member: they get ports later. */
static int tunnels_from_json(const json_t *array,
			     struct port_tunnel tunnels[static PROTO_MAX_PORTS], struct err *reterr)
{
	size_t n = json_array_size(array);

	if (!array)
		return 0;
	if (!json_is_array(array) || n > PROTO_MAX_PORTS)
		return err_set(reterr, -EINVAL, "tunnels is no list of at most %d",
			       PROTO_MAX_PORTS);
	for (size_t i = 0; i < n; i++) {
		int remote, tcp, fixed;

		if (json_unpack(json_array_get(array, i), "[i, b, b]", &remote, &tcp, &fixed) < 0 ||
		    remote < 0 || remote > UINT16_MAX)
			return err_set(reterr, -EINVAL, "tunnels holds something else than ports");
		tunnels[i] = (struct port_tunnel){
			.remote = (uint16_t)remote, .tcp = tcp, .fixed = fixed};
	}
	return 0;
}

/* Records of versions that knew no GPUs have no such member. */
static int gpus_from_json(const json_t *array, uint64_t gpus[static PROTO_MAX_GPUS],
			  struct err *reterr)
{
	if (!array)
		return 0;
	if (!json_is_array(array))
		return err_set(reterr, -EINVAL, "gpus is no list");
	for (size_t i = 0; i < json_array_size(array); i++) {
		const char *text = json_string_value(json_array_get(array, i));
		uint64_t address;

		if (!text || gpus_parse_address(text, &address) < 0 ||
		    gpus_add_address(gpus, address) < 0)
			return err_set(reterr, -EINVAL,
				       "gpus holds something else than at most %d addresses",
				       PROTO_MAX_GPUS);
	}
	return 0;
}

static int keys_from_json(const json_t *array, struct instance *inst, struct err *reterr)
{
	if (!json_is_array(array) || json_array_size(array) > INSTANCE_KEYS_MAX)
		return err_set(reterr, -EINVAL, "keys is no list of at most %d", INSTANCE_KEYS_MAX);
	for (size_t i = 0; i < json_array_size(array); i++) {
		const char *line = json_string_value(json_array_get(array, i));
		struct pubkey key;

		if (!line || pubkey_parse(line, strlen(line), &key, NULL) < 0)
			return err_set(reterr, -EINVAL, "keys holds something else than keys");
		if (instance_key_add(inst, line) < 0)
			return err_set(reterr, -EINVAL, "out of memory");
	}
	return 0;
}

static const char *status_constant(const char *word)
{
	static const char *const words[] = {"pending",   "running", "paused",
					    "rebooting", "error",   "destroyed"};
	int i = find_word(words, ARRAY_LEN(words), word);

	return i < 0 ? "pending" : words[i];
}

static int read_members(json_t *json, struct instance *inst, struct err *reterr)
{
	json_t *run, *ports, *keys, *tunnels = NULL, *gpus = NULL, *tenant = NULL;
	const char *id, *name, *image, *status;
	int version, cpus, memory, disk, bare, container_ssh = 0, r;
	json_int_t created;
	json_error_t why;

	if (json_unpack_ex(json, &why, 0,
			   "{s:i, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:b, s:o, s?o, s:o, s:o, "
			   "s?o, s?o, s?i}",
			   "version", &version, "id", &id, "name", &name, "image", &image, "status",
			   &status, "cpus", &cpus, "memory_mib", &memory, "disk_mib", &disk,
			   "created_at", &created, "bare", &bare, "ports", &ports, "gpus", &gpus,
			   "keys", &keys, "run", &run, "tunnels", &tunnels, "tenant", &tenant,
			   "container_ssh", &container_ssh) < 0)
		return err_set(reterr, -EINVAL, "%s", why.text);
	if (version != VERSION)
		return err_set(reterr, -EINVAL, "version %d is not known to this agentd", version);
	if (!STR_EQ(id, inst->id) || !proto_name_valid(image))
		return err_set(reterr, -EINVAL, "id or image is not what it should be");
	if (cpus < 1 || cpus > PROTO_MAX_CPUS || memory < 1 || memory > (int)PROTO_MAX_MEMORY_MIB ||
	    disk < 0 || disk > (int)PROTO_MAX_DISK_MIB)
		return err_set(reterr, -EINVAL, "cpus, memory_mib or disk_mib is out of range");
	inst->cpus = (uint32_t)cpus;
	inst->memory_mib = (uint32_t)memory;
	inst->disk_mib = (uint32_t)disk;
	inst->created_s = created;
	if (container_ssh < 0 || container_ssh > UINT16_MAX)
		return err_set(reterr, -EINVAL, "container_ssh is no port");
	inst->bare = bare;
	inst->container_ssh = (uint16_t)container_ssh;
	inst->status = status_constant(status);
	r = copy(inst->name, sizeof(inst->name), name, "name", reterr);
	if (r == 0)
		r = copy(inst->image, sizeof(inst->image), image, "image", reterr);
	if (r == 0)
		r = ports_from_json(ports, inst->ports, reterr);
	if (r == 0)
		r = tunnels_from_json(tunnels, inst->tunnels, reterr);
	if (r == 0)
		r = gpus_from_json(gpus, inst->gpus, reterr);
	if (r == 0)
		r = keys_from_json(keys, inst, reterr);
	if (r == 0)
		r = run_from_json(run, &inst->run, reterr);
	if (r == 0 && tenant && json_is_object(tenant))
		inst->tenant = json_incref(tenant);
	return r;
}

static int read_backend(const json_t *json, struct instance *inst, struct err *reterr)
{
	const json_t *backend = json_object_get(json, "backend");
	const json_t *gpus = json_object_get(json, "host_gpus");

	if (!backend)
		return 0;
	if (!json_is_string(backend) || !STR_EQ(json_string_value(backend), "container") ||
	    !json_is_array(gpus) || json_array_size(gpus) > PROTO_MAX_GPUS)
		return err_set(reterr, -EINVAL, "backend or host_gpus is not what it should be");
	for (size_t i = 0; i < json_array_size(gpus); i++) {
		const char *name = json_string_value(json_array_get(gpus, i));

		if (!name || !gpuname_ok(name))
			return err_set(reterr, -EINVAL, "host_gpus holds no name of a GPU");
		(void)snprintf(inst->host_gpus[i], GPU_NAME_SIZE, "%s", name);
	}
	inst->on_host = true;
	return 0;
}

int store_parse(const char *text, size_t len, struct instance *inst, struct err *reterr)
{
	_cleanup_json_ json_t *json = NULL;
	json_error_t why;

	json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
	if (!json)
		return err_set(reterr, -EINVAL, "%s (line %d)", why.text, why.line);
	if (read_backend(json, inst, reterr) < 0)
		return -EINVAL;
	return read_members(json, inst, reterr);
}

static int read_file(int dirfd, const char *name, char **ret_text, size_t *ret_len,
		     struct err *reterr)
{
	_cleanup_free_ char *text = NULL;
	struct stat st;
	ssize_t n;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(reterr, -errno, "cannot look at the file");
	if (!S_ISREG(st.st_mode) || st.st_size > (off_t)STORE_FILE_MAX)
		return err_set(reterr, -EINVAL, "it is no regular file or too large");
	text = malloc((size_t)st.st_size + 2);
	if (!text)
		return err_set(reterr, -ENOMEM, "out of memory");
	n = fd_read_file(dirfd, name, text, (size_t)st.st_size + 2);
	if (n < 0)
		return err_errno(reterr, (int)n, "cannot read the file");
	*ret_text = TAKE_PTR(text);
	*ret_len = (size_t)n;
	return 0;
}

/* What cannot be understood is kept and shown, so that nothing is ever lost silently. */
static void quarantine(struct instance *inst, const char *error, const char *why)
{
	inst->quarantined = true;
	inst->cpus = MAX_OF(inst->cpus, 1);
	inst->memory_mib = MAX_OF(inst->memory_mib, 128);
	inst->run.goal = GOAL_STOP;
	inst->run.restart = RESTART_NONE;
	inst->run.fault = FAULT_FINAL;
	(void)snprintf(inst->run.error, sizeof(inst->run.error), "%s", error);
	log_event(LOG_ERR, "instance record cannot be read", LOG_STR("INSTANCE", inst->id),
		  LOG_STR("REASON", why));
}

static int load_one(int dirfd, const char *name, struct agentd *a, struct instance_list *list)
{
	_cleanup_text_ char *text = NULL;
	struct instance *inst = instance_new(a);
	struct err why = {0}, error = {0};
	size_t len = 0;

	if (!inst)
		return -ENOMEM;
	(void)snprintf(inst->id, sizeof(inst->id), "%.*s", INSTANCE_ID_LEN, name);
	if (read_file(dirfd, name, &text, &len, &why) < 0 ||
	    store_parse(text, len, inst, &why) < 0) {
		(void)err_set(&error, 0,
			      "its record cannot be read (%.120s); repair %s/%s%s and restart "
			      "agentd, or delete the instance",
			      why.text, STORE_DIR, inst->id, SUFFIX);
		quarantine(inst, error.text, why.text);
	}
	TAILQ_INSERT_TAIL(list, inst, link);
	return 0;
}

/*
 * A new record that has its first name still, as it could not be renamed: somebody may have been
 * told of the instance, so it is shown.
 */
static int load_new(int dirfd, const char *name, struct agentd *a, struct instance_list *list)
{
	struct instance *inst;
	struct err error = {0};
	char final[64];
	struct stat st;

	(void)snprintf(final, sizeof(final), "%.*s%s", INSTANCE_ID_LEN, name, SUFFIX);
	if (fstatat(dirfd, final, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 0; /* it is that one's instance; the log has told */
	inst = instance_new(a);
	if (!inst)
		return -ENOMEM;
	(void)snprintf(inst->id, sizeof(inst->id), "%.*s", INSTANCE_ID_LEN, name);
	(void)err_set(&error, 0,
		      "its record cannot get its name; see agentd's log for the reason, rename "
		      "%s/%s to %s and restart agentd, or delete the instance",
		      STORE_DIR, name, final);
	quarantine(inst, error.text, "it has its first name still");
	TAILQ_INSERT_TAIL(list, inst, link);
	return 0;
}

static bool is_record_name(const char *name, const char *suffix)
{
	char id[INSTANCE_ID_LEN + 1];

	if (strlen(name) != INSTANCE_ID_LEN + strlen(suffix) ||
	    !STR_EQ(name + INSTANCE_ID_LEN, suffix))
		return false;
	(void)snprintf(id, sizeof(id), "%.*s", INSTANCE_ID_LEN, name);
	return instance_id_valid(id);
}

static void cleanup_dir(DIR **dir)
{
	if (*dir)
		(void)closedir(*dir);
}

static DIR *list_files(int dirfd)
{
	_cleanup_close_ int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

	if (dir)
		(void)TAKE_FD(fd); /* the DIR's now */
	return dir;
}

/* A part of a record is no JSON, so what is, is whole. */
static bool is_whole(const char *text, size_t len)
{
	_cleanup_json_ json_t *json = json_loadb(text, len, 0, NULL);

	return json != NULL;
}

/* A new record whose name is still its first one. */
static void finish_new(int dirfd, const char *name)
{
	_cleanup_text_ char *text = NULL;
	char id[INSTANCE_ID_LEN + 1], final[64];
	struct err why = {0};
	size_t len = 0;

	(void)snprintf(id, sizeof(id), "%.*s", INSTANCE_ID_LEN, name);
	file_name(id, SUFFIX, final);
	/* What cannot be read may be whole: under its final name it is quarantined. */
	if (read_file(dirfd, name, &text, &len, &why) == 0 && !is_whole(text, len)) {
		log_event(LOG_WARNING, "new record was not finished; nobody was told of it",
			  LOG_STR("INSTANCE", id));
		(void)unlinkat(dirfd, name, 0);
	} else if (renameat2(dirfd, name, dirfd, final, RENAME_NOREPLACE) < 0) {
		log_event(LOG_ERR, "new record cannot get its name", LOG_STR("INSTANCE", id),
			  LOG_ERRNO(-errno));
	}
}

static void finish_all_new(int dirfd)
{
	_cleanup_(cleanup_dir) DIR *dir = list_files(dirfd);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (is_record_name(entry->d_name, NEW_SUFFIX))
			finish_new(dirfd, entry->d_name);
}

int store_load(int dirfd, struct agentd *a, struct instance_list *list, struct err *reterr)
{
	_cleanup_(cleanup_dir) DIR *dir = NULL;
	struct dirent *entry;
	int r;

	finish_all_new(dirfd);
	dir = list_files(dirfd);
	if (!dir)
		return err_errno(reterr, -errno, "cannot list the stored instances");
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue; /* what an interrupted replacement left */
		r = 0;
		if (is_record_name(entry->d_name, SUFFIX))
			r = load_one(dirfd, entry->d_name, a, list);
		else if (is_record_name(entry->d_name, NEW_SUFFIX))
			r = load_new(dirfd, entry->d_name, a, list);
		else
			log_event(LOG_WARNING, "file among the instances is not mine",
				  LOG_STR("FILE", entry->d_name));
		if (r < 0)
			return err_set(reterr, -ENOMEM, "out of memory");
	}
	return 0;
}
