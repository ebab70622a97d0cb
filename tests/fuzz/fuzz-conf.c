/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes the configuration reader with a table that has a key of every type.
 * Trust: a test; reads what the fuzzer invents.
 */
#include "common/conf.h"
#include "proto/proto.h"

#define INVARIANT(condition)                                                                       \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			(void)fprintf(stderr, "broken: %s, line %d\n", #condition, __LINE__);      \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

struct config {
	char text[16];
	char path[32];
	char name[PROTO_NAME_SIZE];
	uint32_t number;
	uint32_t size_mib;
	bool flag;
	int word;
	uint8_t guard[16];
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const words[] = {"auto", "kvm", "tcg", NULL};

static const struct conf_key keys[] = {
	{"text", CONF_TEXT, CONF_MEMBER(struct config, text)},
	{"path", CONF_PATH, CONF_MEMBER(struct config, path)},
	{"name", CONF_NAME, CONF_MEMBER(struct config, name)},
	{"number", CONF_U32, CONF_MEMBER(struct config, number), .low = 10, .high = 4000000000},
	{"size", CONF_MIB, CONF_MEMBER(struct config, size_mib), .low = 128, .high = 1048576},
	{"flag", CONF_BOOL, CONF_MEMBER(struct config, flag)},
	{"word", CONF_ENUM, CONF_MEMBER(struct config, word), .words = words},
};

static const struct config defaults = {
	.text = "text", .path = "/path", .name = "name", .number = 10, .size_mib = 128};

static void check_text(const char *text, size_t size)
{
	size_t len = strnlen(text, size);

	INVARIANT(len > 0 && len < size);
	for (size_t i = 0; i < size; i++)
		INVARIANT(i < len ? text[i] >= 0x20 && text[i] <= 0x7e : text[i] == '\0');
}

static void check_path(const char *path)
{
	char padded[64];

	INVARIANT(path[0] == '/');
	(void)snprintf(padded, sizeof(padded), "%s/", path);
	INVARIANT(!strstr(padded, "/./") && !strstr(padded, "/../"));
}

/* Whatever was read, even up to an error: every value is one that its key allows. */
static void check_config(const struct config *c)
{
	uint8_t flag;

	check_text(c->text, sizeof(c->text));
	check_text(c->path, sizeof(c->path));
	check_text(c->name, sizeof(c->name));
	check_path(c->path);
	INVARIANT(proto_name_valid(c->name));
	INVARIANT(c->number >= 10 && c->number <= 4000000000);
	INVARIANT(c->size_mib >= 128 && c->size_mib <= 1048576);
	memcpy(&flag, &c->flag, sizeof(flag));
	INVARIANT(flag <= 1);
	INVARIANT(c->word >= 0 && c->word <= 2);
	INVARIANT(memcmp(c->guard, defaults.guard, sizeof(c->guard)) == 0);
}

static void check_error(int r, const struct err *err)
{
	INVARIANT(r < 0 && err->text[0] != '\0');
	for (const char *p = err->text; *p; p++)
		INVARIANT(*p >= 0x20 && *p <= 0x7e);
}

/* Each key once, from the whole input as one value, as from an environment variable. */
static void set_each(const char *text)
{
	struct config config = defaults;
	uint32_t mib;

	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		struct err err = {0};
		int r = conf_set(&keys[i], text, &config, &err);

		if (r != 0)
			check_error(r, &err);
		check_config(&config);
	}
	(void)conf_parse_mib(text, &mib);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config config = defaults;
	_cleanup_free_ char *text = malloc(size + 1);
	struct err err = {0};
	int r;

	if (!text)
		abort();
	memcpy(text, data, size);
	text[size] = '\0';
	set_each(text);
	r = conf_parse("fuzz.conf", text, keys, ARRAY_LEN(keys), &config, &err);
	if (r != 0)
		check_error(r, &err);
	check_config(&config);
	return 0;
}
