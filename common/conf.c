/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration files.
 * Trust: runs in every daemon before it is confined; reads a file of the administrator.
 */
#include "common/conf.h"

#include "common/fd.h"
#include "proto/proto.h"

#include <fcntl.h>
#include <sys/stat.h>

#define FILE_MAX (64 * 1024)
#define SEEN_MAX 64

static char *trim(char *s)
{
	size_t len;

	s += strspn(s, " \t\r");
	len = strlen(s);
	while (len > 0 && strchr(" \t\r", s[len - 1]))
		s[--len] = '\0';
	return s;
}

static bool printable(const char *s)
{
	for (; *s; s++)
		if (*s < 0x20 || *s > 0x7e)
			return false;
	return true;
}

static int parse_number(const char *text, uint64_t *ret_value, const char **ret_end)
{
	char *end;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	*ret_value = strtoull(text, &end, 10);
	if (errno != 0)
		return -ERANGE;
	*ret_end = end;
	return 0;
}

int conf_parse_mib(const char *text, uint32_t *ret_mib)
{
	static const char units[] = "MGT";
	const char *end, *unit = units;
	uint64_t value;
	int shift, r = parse_number(text, &value, &end);

	if (r < 0)
		return r;
	if (*end != '\0') {
		unit = strchr(units, *end++);
		if (!unit || (*end != '\0' && !STR_EQ(end, "iB")))
			return -EINVAL;
	}
	shift = (int)(unit - units) * 10;
	if (value > UINT32_MAX >> shift)
		return -ERANGE;
	*ret_mib = (uint32_t)(value << shift);
	return 0;
}

static int set_text(const struct conf_key *key, const char *value, char *member, struct err *reterr)
{
	if ((*value == '\0' && key->type != CONF_LIST) || !printable(value))
		return err_set(reterr, -EINVAL, "%s must be printable text", key->name);
	if (strlen(value) >= key->size)
		return err_set(reterr, -EINVAL, "%s is longer than %zu characters", key->name,
			       key->size - 1);
	memset(member, 0, key->size);
	memcpy(member, value, strlen(value));
	return 0;
}

static bool path_ok(const char *path)
{
	if (path[0] != '/')
		return false;
	for (const char *p = path; p; p = strchr(p + 1, '/')) {
		size_t part = strcspn(p + 1, "/");

		if ((part == 1 && p[1] == '.') || (part == 2 && p[1] == '.' && p[2] == '.'))
			return false;
	}
	return true;
}

static int set_u32(const struct conf_key *key, const char *value, uint32_t *member,
		   struct err *reterr)
{
	uint64_t number = 0;
	uint32_t mib;
	const char *end = "";
	int r;

	if (key->type == CONF_MIB) {
		r = conf_parse_mib(value, &mib);
		number = r == 0 ? mib : 0;
	} else {
		r = parse_number(value, &number, &end);
		if (r == 0 && *end != '\0')
			r = -EINVAL;
	}
	if (r < 0 || number < key->low || number > key->high)
		return err_set(reterr, -EINVAL, "%s must be a number%s from %u to %u", key->name,
			       key->type == CONF_MIB ? " of MiB (or with M, G, T)" : "", key->low,
			       key->high);
	*member = (uint32_t)number;
	return 0;
}

static int set_word(const struct conf_key *key, const char *value, int *member, struct err *reterr)
{
	char all[128] = "";

	for (int i = 0; key->words[i]; i++) {
		if (STR_EQ(value, key->words[i])) {
			*member = i;
			return 0;
		}
		(void)snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s",
			       i > 0 ? ", " : "", key->words[i]);
	}
	return err_set(reterr, -EINVAL, "%s must be one of: %s", key->name, all);
}

int conf_set(const struct conf_key *key, const char *value, void *ret_config, struct err *reterr)
{
	void *member = (uint8_t *)ret_config + key->offset;

	switch (key->type) {
	case CONF_TEXT:
	case CONF_LIST:
		return set_text(key, value, member, reterr);
	case CONF_PATH:
		if (!path_ok(value))
			return err_set(reterr, -EINVAL, "%s must be an absolute path without ..",
				       key->name);
		return set_text(key, value, member, reterr);
	case CONF_NAME:
		if (!proto_name_valid(value))
			return err_set(reterr, -EINVAL,
				       "%s must be 1 to 32 characters of a-z, 0-9 and -",
				       key->name);
		return set_text(key, value, member, reterr);
	case CONF_U32:
	case CONF_MIB:
		return set_u32(key, value, member, reterr);
	case CONF_BOOL:
		if (!STR_EQ(value, "yes") && !STR_EQ(value, "no"))
			return err_set(reterr, -EINVAL, "%s must be yes or no", key->name);
		*(bool *)member = STR_EQ(value, "yes");
		return 0;
	case CONF_ENUM:
		return set_word(key, value, member, reterr);
	}
	return err_set(reterr, -EINVAL, "%s has no type", key->name);
}

static const struct conf_key *find_key(const struct conf_key *keys, size_t n_keys, const char *name)
{
	for (size_t i = 0; i < n_keys; i++)
		if (STR_EQ(keys[i].name, name))
			return &keys[i];
	return NULL;
}

static int parse_line(char *line, const struct conf_key *keys, size_t n_keys, uint64_t *seen,
		      void *ret_config, struct err *reterr)
{
	const struct conf_key *key;
	char *equals, *name;

	line = trim(line);
	if (*line == '\0' || *line == '#')
		return 0;
	equals = strchr(line, '=');
	if (!equals)
		return err_set(reterr, -EINVAL, "expected `key = value`");
	*equals = '\0';
	name = trim(line);
	key = find_key(keys, n_keys, name);
	if (!key)
		return err_set(reterr, -EINVAL, "unknown key `%.40s`",
			       printable(name) ? name : "?");
	if (*seen & UINT64_C(1) << (key - keys))
		return err_set(reterr, -EINVAL, "%s is given twice", key->name);
	*seen |= UINT64_C(1) << (key - keys);
	return conf_set(key, trim(equals + 1), ret_config, reterr);
}

int conf_parse(const char *name, char *text, const struct conf_key *keys, size_t n_keys,
	       void *ret_config, struct err *reterr)
{
	uint64_t seen = 0;
	unsigned int number = 0;

	if (n_keys > SEEN_MAX)
		return -E2BIG;
	for (char *line = text, *next; line; line = next) {
		struct err why = {0};
		int r;

		number++;
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		r = parse_line(line, keys, n_keys, &seen, ret_config, &why);
		if (r < 0)
			return err_set(reterr, r, "%s, line %u: %s", name, number, why.text);
	}
	return 0;
}

static int check_owner(int fd, const char *path, struct err *reterr)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(reterr, -errno, "cannot look at %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(reterr, -EINVAL, "%s is no regular file", path);
	if (st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)))
		return err_set(reterr, -EPERM,
			       "%s must belong to root and be writable by root only "
			       "(chown root %s; chmod go-w %s)",
			       path, path, path);
	return 0;
}

int conf_load(const char *path, const struct conf_key *keys, size_t n_keys, bool root_owned,
	      void *ret_config, struct err *reterr)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	char text[FILE_MAX];
	ssize_t n;
	int r;

	if (fd < 0)
		return err_errno(reterr, -errno, "cannot read %s", path);
	r = root_owned ? check_owner(fd, path, reterr) : 0;
	for (size_t i = 0; r == 0 && i < n_keys; i++)
		if (keys[i].initial)
			r = conf_set(&keys[i], keys[i].initial, ret_config, reterr);
	if (r < 0)
		return r;
	n = fd_read_text(fd, text, sizeof(text));
	if (n < 0)
		return err_errno(reterr, (int)n, "cannot read %s", path);
	if (strlen(text) != (size_t)n)
		return err_set(reterr, -EINVAL, "%s has a NUL byte in it", path);
	return conf_parse(path, text, keys, n_keys, ret_config, reterr);
}
