/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading of wishes and making of the engine's requests.
 * Trust: runs in vmmon; reads JSON of agentd, which may be hostile, with texts of the tenant.
 */
#include "vmmon/engine/wish.h"

#include "common/cmdline.h"

#define DEFAULT_REGISTRY "https://index.docker.io/v1/"
#define ENV_MAX          256
#define GPUS_MAX         16
#define WISH_SSH_PORT    22 /* of the container */
#define NAME_CHARS       "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

static void cleanup_json(json_t **json)
{
	json_decref(*json);
}

#define _cleanup_json_ _cleanup_(cleanup_json)

static void wipe(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}

void wish_done(struct wish *wish)
{
	wipe(wish->auth);
	wipe(wish->login);
	wipe(wish->password);
	wipe(wish->create); /* the environment is as secret as a password */
	wipe(wish->create_cdi);
	wipe(wish->create_unbounded);
	wipe(wish->create_cdi_unbounded);
	free(wish->network);
	free(wish->gpu_names);
	free(wish->pull);
	*wish = (struct wish){0};
}

void wish_url_encode(FILE *f, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		char c = text[i];

		if (c != '\0' && strchr(NAME_CHARS ".-~", c))
			(void)fputc(c, f);
		else
			(void)fprintf(f, "%%%02X", (unsigned int)(unsigned char)c);
	}
}

/* The image's name and its tag or digest, as two parameters: with one alone all tags are pulled. */
static int make_pull(struct wish *wish, const struct imageref *ref)
{
	size_t size = 0;
	FILE *f = open_memstream(&wish->pull, &size);

	if (!f)
		return -ENOMEM;
	(void)fputs("/images/create?fromImage=", f);
	wish_url_encode(f, ref->name, ref->name_len);
	(void)fputs("&tag=", f);
	if (ref->digest)
		wish_url_encode(f, ref->digest, ref->digest_len);
	else if (ref->tag)
		wish_url_encode(f, ref->tag, ref->tag_len);
	else
		(void)fputs("latest", f);
	return fclose(f) == 0 ? 0 : -ENOMEM;
}

/* By RFC 4648, section 5, with padding. */
static char *base64url(const char *text, size_t len)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	char *out = malloc((len + 2) / 3 * 4 + 1), *p = out;

	for (size_t i = 0; out && i < len; i += 3) {
		size_t n = MIN_OF(len - i, (size_t)3);
		uint32_t bits = (uint32_t)(unsigned char)text[i] << 16;

		bits |= n > 1 ? (uint32_t)(unsigned char)text[i + 1] << 8 : 0;
		bits |= n > 2 ? (uint32_t)(unsigned char)text[i + 2] : 0;
		*p++ = digits[bits >> 18];
		*p++ = digits[bits >> 12 & 63];
		*p++ = n > 1 ? digits[bits >> 6 & 63] : '=';
		*p++ = n > 2 ? digits[bits & 63] : '=';
	}
	if (p)
		*p = '\0';
	return out;
}

static int make_auth(struct wish *wish, const struct imageref *ref)
{
	_cleanup_json_ json_t *json = NULL;
	char *text;

	if (!wish->login && !wish->password)
		return 0;
	json = json_pack("{s:s, s:s, s:s%}", "username", wish->login ? wish->login : "", "password",
			 wish->password ? wish->password : "", "serveraddress",
			 ref->host ? ref->host : DEFAULT_REGISTRY,
			 ref->host ? ref->host_len : strlen(DEFAULT_REGISTRY));
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	wish->auth = text ? base64url(text, strlen(text)) : NULL;
	wipe(text);
	return wish->auth ? 0 : -ENOMEM;
}

/* Members of the request. */

static json_t *words_array(char **words, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++)
		if (json_array_append_new(array, json_string(words[i])) < 0)
			return json_decref(array), NULL;
	return array;
}

/* As a shell would split it, if it would only split; by the container's own shell otherwise. */
static int put_command(json_t *body, const char *command, struct err *reterr)
{
	_cleanup_free_ char **words = NULL;
	int n = command ? cmdline_split(command, &words) : 0;
	json_t *array;

	if (n == -EINVAL)
		return err_set(reterr, -EINVAL, "the command has a quote that is not closed");
	if (n == -ENOMEM)
		return n;
	if (n == 0) /* what the image would run by itself must not run: it idles */
		return json_object_set_new(body, "Entrypoint",
					   json_pack("[s, s, s]", "tail", "-f", "/dev/null"));
	array = n > 0 ? words_array(words, (size_t)n) : json_pack("[s, s, s]", "sh", "-c", command);
	return json_object_set_new(body, "Cmd", array);
}

/* What NVIDIA's toolkit goes by; the tenant's own values stand. */
static int put_gpu_env(json_t *array, const json_t *env)
{
	static const char *const names[] = {"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (!json_object_get(env, names[i]) &&
		    json_array_append_new(array, json_sprintf("%s=all", names[i])) < 0)
			return -ENOMEM;
	return 0;
}

static int put_env(json_t *body, const json_t *env, bool gpus, struct err *reterr)
{
	json_t *array = json_array(), *value;
	const char *name;

	if (env && (!json_is_object(env) || json_object_size(env) > ENV_MAX)) {
		json_decref(array);
		return err_set(reterr, -EINVAL, "env is no object of at most %d", ENV_MAX);
	}
	json_object_foreach ((json_t *)env, name, value) {
		bool ok = json_is_string(value) && name[0] != '\0' &&
			  name[strspn(name, NAME_CHARS)] == '\0';

		if (!ok ||
		    json_array_append_new(
			    array, json_sprintf("%s=%s", name, json_string_value(value))) < 0) {
			json_decref(array);
			return err_set(reterr, -EINVAL, "env holds something else than texts");
		}
	}
	if (gpus && put_gpu_env(array, env) < 0) {
		json_decref(array);
		return -ENOMEM;
	}
	return json_object_set_new(body, "Env", array);
}

/* Publishes @port of the container as @number of the guest. */
static int publish(json_t *exposed, json_t *bound, unsigned int port, unsigned int number)
{
	char key[16], text[8];

	(void)snprintf(key, sizeof(key), "%u/tcp", port);
	(void)snprintf(text, sizeof(text), "%u", number);
	if (json_object_set_new(exposed, key, json_object()) < 0)
		return -ENOMEM;
	return json_object_set_new(
		       bound, key,
		       json_pack("[{s:s, s:s}]", "HostIp", "0.0.0.0", "HostPort", text)) < 0
		       ? -ENOMEM
		       : 0;
}

static int put_ports(json_t *body, json_t *host, const json_t *ports, json_int_t ssh,
		     struct err *reterr)
{
	json_t *exposed = json_object(), *bound = json_object();

	if (json_object_set_new(body, "ExposedPorts", exposed) < 0 ||
	    json_object_set_new(host, "PortBindings", bound) < 0)
		return -ENOMEM;
	if (ports && !json_is_array(ports))
		return err_set(reterr, -EINVAL, "ports is no array");
	for (size_t i = 0; i < json_array_size(ports); i++) {
		json_int_t port = json_integer_value(json_array_get(ports, i));

		if (port < 1 || port > UINT16_MAX)
			return err_set(reterr, -EINVAL, "ports holds something else than ports");
		if (publish(exposed, bound, (unsigned int)port, (unsigned int)port) < 0)
			return -ENOMEM;
	}
	return ssh > 0 ? publish(exposed, bound, WISH_SSH_PORT, (unsigned int)ssh) : 0;
}

/* All of them, by NVIDIA's toolkit. */
static int put_gpus(json_t *host)
{
	return json_object_set_new(host, "DeviceRequests",
				   json_pack("[{s:s, s:i, s:[[s]]}]", "Driver", "nvidia", "Count",
					     -1, "Capabilities", "gpu"));
}

static int put_gpus_cdi(json_t *host)
{
	return json_object_set_new(
		host, "DeviceRequests",
		json_pack("[{s:s, s:[s]}]", "Driver", "cdi", "DeviceIDs", "nvidia.com/gpu=all"));
}

/* The hash of the body, which then goes into its label. */
static void hash_body(const char *text, char ret_hash[static WISH_HASH_SIZE])
{
	uint8_t digest[SHA256_SIZE];
	struct sha256 s;

	sha256_init(&s);
	sha256_add(&s, text, strlen(text));
	sha256_end(&s, digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		(void)snprintf(ret_hash + 2 * i, 3, "%02x", digest[i]);
}

static int label_body(struct wish *wish, json_t *body)
{
	char *text = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);

	if (!text)
		return -ENOMEM;
	hash_body(text, wish->hash);
	wipe(text);
	if (!json_object_get(body, "Labels") &&
	    json_object_set_new(body, "Labels", json_object()) < 0)
		return -ENOMEM;
	if (json_object_set_new(json_object_get(body, "Labels"), WISH_LABEL,
				json_string(wish->hash)) < 0)
		return -ENOMEM;
	wish->create = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
	return wish->create ? 0 : -ENOMEM;
}

struct parts {
	const char *image, *login, *password, *command;
	json_t *env, *ports; /* borrowed */
	json_int_t gpus, ssh;
	struct wish_host on_host;
};

/* The same container, so the same hash: how it gets its GPUs is the engine's matter. */
static int make_create_cdi(struct wish *wish, const json_t *body, json_t *host,
			   const struct wish_host *h)
{
	if ((h->instance ? wish_host_put_gpus(host, h, /* cdi= */ true) : put_gpus_cdi(host)) < 0)
		return -ENOMEM;
	wish->create_cdi = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
	return wish->create_cdi ? 0 : -ENOMEM;
}

/* What was made so far has no limit of the disk: kept beside what takes its place, with one. */
static int bound_disk(struct wish *wish, json_t *body, json_t *host, const struct wish_host *h)
{
	char size[32];
	int r = 0;

	(void)snprintf(size, sizeof(size), "%lldm", (long long)h->disk_mib);
	if (json_object_set_new(host, "StorageOpt", json_pack("{s:s}", "size", size)) < 0)
		return -ENOMEM;
	wish->create_unbounded = TAKE_PTR(wish->create);
	wish->create_cdi_unbounded = TAKE_PTR(wish->create_cdi);
	if (wish->gpus)
		r = make_create_cdi(wish, body, host, h);
	if (r == 0 && wish->gpus)
		r = wish_host_put_gpus(host, h, /* cdi= */ false);
	if (r < 0)
		return -ENOMEM;
	wish->create = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
	return wish->create ? 0 : -ENOMEM;
}

/* What is made beside the container, and in another way, on this host. */
static int finish_on_host(struct wish *wish, json_t *body, json_t *host, const struct wish_host *h)
{
	char names[WISH_GPUS_SIZE];

	wish_host_gpus(h, names);
	wish->gpu_names = strdup(names);
	wish->network = wish_host_network(h->instance);
	wish->disk_mib = h->disk_mib;
	if (!wish->network || !wish->gpu_names)
		return -ENOMEM;
	return h->disk_mib > 0 ? bound_disk(wish, body, host, h) : 0;
}

static int make_create(struct wish *wish, const struct parts *p, struct err *reterr)
{
	_cleanup_json_ json_t *body = json_pack("{s:s}", "Image", p->image);
	_cleanup_json_ json_t *host = json_pack("{s:[s], s:b, s:{s:s}}", "Binds", WISH_DATA, "Init",
						1, "RestartPolicy", "Name", "unless-stopped");
	int r = body && host ? put_command(body, p->command, reterr) : -ENOMEM;

	if (r == 0)
		r = put_env(body, p->env, wish->gpus, reterr);
	if (r == 0)
		r = put_ports(body, host, p->ports, p->ssh, reterr);
	if (r == 0 && p->on_host.instance)
		r = wish_host_put(body, host, &p->on_host);
	else if (r == 0 && wish->gpus)
		r = put_gpus(host);
	if (r == 0)
		r = json_object_set(body, "HostConfig", host);
	if (r == 0)
		r = label_body(wish, body);
	if (r == 0 && wish->gpus)
		r = make_create_cdi(wish, body, host, &p->on_host);
	if (r == 0 && p->on_host.instance)
		r = finish_on_host(wish, body, host, &p->on_host);
	return r == -1 ? -ENOMEM : r;
}

static int keep(char **ret_copy, const char *text)
{
	if (!text || *text == '\0')
		return 0;
	*ret_copy = strdup(text);
	return *ret_copy ? 0 : -ENOMEM;
}

static int fill(struct wish *wish, const struct parts *p, struct err *reterr)
{
	struct imageref ref;
	int r = imageref_parse(p->image, &ref, reterr);

	if (r == 0)
		r = wish_host_check(&p->on_host, p->ports != NULL, reterr);
	if (r < 0)
		return r;
	if (p->gpus < 0 || p->gpus > GPUS_MAX || (p->gpus > 0 && p->on_host.instance))
		return err_set(reterr, -EINVAL, "gpus is out of range");
	if (p->ssh < 0 || p->ssh > UINT16_MAX)
		return err_set(reterr, -EINVAL, "ssh is no port");
	(void)snprintf(wish->image, sizeof(wish->image), "%s", p->image);
	wish->gpus = p->gpus > 0 || json_array_size(p->on_host.gpu_ids) > 0;
	wish->ssh = p->ssh > 0;
	r = keep(&wish->login, p->login);
	if (r == 0)
		r = keep(&wish->password, p->password);
	if (r == 0)
		r = make_pull(wish, &ref);
	if (r == 0)
		r = make_auth(wish, &ref);
	return r == 0 ? make_create(wish, p, reterr) : r;
}

int wish_parse(const char *text, size_t len, const char *instance, struct wish *ret_wish,
	       struct err *reterr)
{
	_cleanup_json_ json_t *json = NULL;
	struct parts p = {.on_host.instance = instance};
	struct wish_host *h = &p.on_host;
	int r;

	*ret_wish = (struct wish){0};
	json = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (!json ||
	    json_unpack_ex(json, NULL, JSON_STRICT,
			   "{s:s, s?s, s?s, s?s, s?o, s?o, s?I, s?I, s?o, s?I, s?I, s?I, s?o}",
			   "image", &p.image, "login", &p.login, "password", &p.password, "command",
			   &p.command, "env", &p.env, "ports", &p.ports, "gpus", &p.gpus, "ssh",
			   &p.ssh, "publish", &h->publish, "cpus", &h->cpus, "memory_mib",
			   &h->memory_mib, "disk_mib", &h->disk_mib, "gpu_ids", &h->gpu_ids) < 0)
		return err_set(reterr, -EINVAL, "it is not the JSON of a wish");
	h->ssh = p.ssh;
	r = fill(ret_wish, &p, reterr);
	if (r < 0)
		wish_done(ret_wish);
	return r;
}
