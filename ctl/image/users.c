/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which VMs stand on which image.
 *
 * Trust: runs as the operator or root; reads the root helper's records and the agent's answer.
 *
 * A VM's disk holds only what differs from its image, and the image is found by its name at each
 * start: whoever puts another image under the name of one in use destroys the VM's file system.
 * The helper's records are therefore asked before anything is replaced or removed, and once more
 * after it; the broker, for its part, refuses to start a VM whose image is not what it was.
 */
#include "ctl/image/image.h"

#include <dirent.h>
#include <fcntl.h>

#include "common/fd.h"
#include "common/log.h"
#include "ctl/api.h"
#include "ctl/instance.h"
#include "vfio-helper/broker/record.h"

#define AGENT_TIMEOUT_MS 3000

static void add_user(json_t *users, const char *image, const char *id)
{
	json_t *list = json_object_get(users, image), *value;
	size_t i;

	if (!list) {
		list = json_array();
		(void)json_object_set_new(users, image, list);
	}
	json_array_foreach (list, i, value)
		if (STR_EQ(json_string_value(value), id))
			return;
	(void)json_array_append_new(list, json_string(id));
}

/* The image in a record; -EBADMSG when it is no record, -ENOENT when there is none (yet). */
static int read_record(int vms_fd, const char *vm, char *ret_image)
{
	_cleanup_close_ int dir =
		openat(vms_fd, vm, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct vm_record rec;
	int r;

	if (dir < 0)
		return -errno;
	r = record_load(dir, "record", &rec, sizeof(rec));
	if (r < 0)
		return r;
	if (memchr(rec.image, '\0', sizeof(rec.image)) == NULL || !parse_is_name(rec.image))
		return -EBADMSG;
	(void)snprintf(ret_image, PARSE_NAME_MAX + 1, "%.32s", rec.image);
	return 0;
}

static int load_records(const struct place *p, json_t *users, char *ret_unclear)
{
	int fd = open(p->vms_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int r = -errno;

	if (!dir) {
		(void)safe_close(fd);
		return fd < 0 && r == -ENOENT ? 0 : r; /* the helper has never run here */
	}
	for (struct dirent *d = readdir(dir); d; d = readdir(dir)) {
		char image[PARSE_NAME_MAX + 1];

		if (!parse_is_name(d->d_name))
			continue;
		r = read_record(fd, d->d_name, image);
		if (r == 0)
			add_user(users, image, d->d_name);
		else if (ret_unclear)
			(void)snprintf(ret_unclear, PARSE_NAME_MAX + 1, "%.32s", d->d_name);
	}
	(void)closedir(dir);
	return 0;
}

/* What the agent says is no proof, and its silence no failure. */
static void load_agents(struct ctl *c, json_t *users)
{
	_cleanup_free_ char *error = NULL;
	_cleanup_reply_ struct api_reply reply = {0};
	struct instance inst;
	enum ctl_exit r;
	struct api *api;
	json_t *json;
	size_t i;

	if (ctl_value(c, OPT_URL) || getenv("QUDATA_CTL_URL"))
		return; /* that may be another host's */
	api = ctl_api(c, &r);
	if (!api || api_call(api, "GET", "/v1/instances", NULL, AGENT_TIMEOUT_MS, &reply) != CTL_OK)
		return;
	json_array_foreach (json_object_get(reply.data, "instances"), i, json)
		if (instance_read(json, &inst) == 0 && inst.image && parse_is_name(inst.image))
			add_user(users, inst.image, inst.id);
}

json_t *users_load(struct ctl *c, const struct place *p, bool *ret_known, char *ret_unclear)
{
	json_t *users = json_object();

	if (ret_unclear)
		ret_unclear[0] = '\0';
	*ret_known = true;
	if (p->vms_dir[0] == '\0')
		return users; /* no helper looks into this folder */
	*ret_known = load_records(p, users, ret_unclear) == 0;
	load_agents(c, users);
	return users;
}

char *users_of(const json_t *users, const char *name)
{
	const json_t *list = json_object_get(users, name);
	char *text = NULL;
	size_t size = 0, i;
	const json_t *id;
	FILE *f;

	if (json_array_size(list) == 0)
		return NULL;
	f = open_memstream(&text, &size);
	if (!f)
		return NULL;
	json_array_foreach (list, i, id)
		fprintf(f, "%s%s", i ? ", " : "", json_string_value(id));
	(void)fclose(f);
	return text;
}

enum ctl_exit users_refuse(struct ctl *c, const struct place *p, const char *name)
{
	char unclear[PARSE_NAME_MAX + 1];
	bool known;
	json_t *users = users_load(c, p, &known, unclear);
	_cleanup_free_ char *list = users_of(users, name);

	json_decref(users);
	if (list)
		return ctl_fail(c, CTL_CONFLICT,
				"image %s is in use by %s: delete what stands on it first, or "
				"choose another name",
				name, list);
	if (!known)
		return ctl_fail(c, CTL_DENIED,
				"run this as root: only root can read %s, which says "
				"who uses the image",
				p->vms_dir);
	if (unclear[0] != '\0')
		return ctl_fail(c, CTL_CONFLICT,
				"what VM %s stands on cannot be told: it is being made, or its "
				"record is damaged; try again in a moment",
				unclear);
	return CTL_OK;
}
