/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contents of the seed disk.
 * Trust: runs in vmmon; writes keys that vmmon made itself.
 */
#include "vmmon/seed.h"

#include "proto/proto.h"
#include "vmmon/iso.h"

#include <jansson.h>

#define KEY_DIR    "/etc/qudata"
#define READY_PORT "/dev/virtio-ports/org.qudata.ready.0"

static const char sshd_conf[] = "PasswordAuthentication no\n"
				"KbdInteractiveAuthentication no\n"
				"PermitRootLogin prohibit-password\n"
				"HostKey " KEY_DIR "/ssh_host_ed25519_key\n"
				"AuthorizedKeysFile .ssh/authorized_keys " KEY_DIR
				"/authorized_keys " KEY_DIR "/tenant_keys\n";

/* Tells the host at every boot that sshd listens: its unit is of a kind that says so itself. */
static const char ready_unit[] = "[Unit]\n"
				 "Description=Tell the host that SSH is ready\n"
				 "After=ssh.service sshd.service ssh.socket\n"
				 "ConditionPathExists=" READY_PORT "\n"
				 "[Service]\n"
				 "Type=oneshot\n"
				 "ExecStart=/bin/sh -c 'echo ready >" READY_PORT "'\n"
				 "[Install]\n"
				 "WantedBy=multi-user.target\n";

/* Runs in the guest, once, after the files were written. */
static const char first_boot[] =
	"systemctl daemon-reload; "
	"systemctl enable qudata-ready.service; "
	"systemctl try-reload-or-restart ssh.service || systemctl try-reload-or-restart "
	"sshd.service; "
	"systemctl start --no-block qudata-ready.service";

static int add_file(json_t *files, const char *path, const char *mode, const char *content)
{
	json_t *file = json_pack("{s:s, s:s, s:s, s:s}", "path", path, "owner", "root:root",
				 "permissions", mode, "content", content);

	return json_array_append_new(files, file) < 0 ? -ENOMEM : 0;
}

static int add_files(json_t *files, const struct seed *seed, const char *public_line,
		     const char *authorized)
{
	const struct {
		const char *path, *mode, *content;
	} table[] = {
		{KEY_DIR "/ssh_host_ed25519_key", "0600", seed->host_key},
		{KEY_DIR "/ssh_host_ed25519_key.pub", "0644", public_line},
		{KEY_DIR "/authorized_keys", "0600", authorized},
		{"/etc/ssh/sshd_config.d/10-qudata.conf", "0644", sshd_conf},
		{"/etc/systemd/system/qudata-ready.service", "0644", ready_unit},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		if (add_file(files, table[i].path, table[i].mode, table[i].content) < 0)
			return -ENOMEM;
	return 0;
}

/* JSON is YAML, so what jansson writes is a valid cloud-config. */
static char *make_user_data(const struct seed *seed, const char *public_line,
			    const char *authorized)
{
	json_t *files = json_array();
	json_t *config = NULL;
	char *text = NULL, *user_data = NULL;

	if (files && add_files(files, seed, public_line, authorized) == 0)
		config = json_pack("{s:s, s:b, s:b, s:b, s:O, s:[[s, s, s]]}", "hostname",
				   seed->name, "ssh_pwauth", 0, "disable_root", 0, "package_update",
				   0, "write_files", files, "runcmd", "sh", "-c", first_boot);
	if (config)
		text = json_dumps(config, JSON_INDENT(1));
	if (text && asprintf(&user_data, "#cloud-config\n%s\n", text) < 0)
		user_data = NULL;
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
	json_decref(config);
	json_decref(files);
	return user_data;
}

static void wipe_text(char **text)
{
	if (*text)
		explicit_bzero(*text, strlen(*text));
	free(*text);
}

static char *line_of(const char *text)
{
	char *line;

	return asprintf(&line, "%s\n", text) < 0 ? NULL : line;
}

int seed_build(const struct seed *seed, uint8_t **ret_image, size_t *ret_len)
{
	_cleanup_free_ char *hostname = line_of(seed->name);
	_cleanup_free_ char *public_line = line_of(seed->host_key_public);
	_cleanup_free_ char *authorized = line_of(seed->management_key);
	_cleanup_free_ char *meta = NULL;
	_cleanup_(wipe_text) char *user_data = NULL;

	if (asprintf(&meta, "instance-id: %s\nlocal-hostname: %s\n", seed->name, seed->name) < 0)
		meta = NULL;
	if (!hostname || !public_line || !authorized || !meta)
		return -ENOMEM;
	user_data = make_user_data(seed, public_line, authorized);
	if (!user_data)
		return -ENOMEM;

	const struct iso_file files[] = {
		{"meta-data", meta, strlen(meta)},
		{"user-data", user_data, strlen(user_data)},
		{"hostname", hostname, strlen(hostname)},
		{"host_key", seed->host_key, strlen(seed->host_key)},
		{"host_key.pub", public_line, strlen(public_line)},
		{"authorized_keys", authorized, strlen(authorized)},
	};

	return iso_build("cidata", files, ARRAY_LEN(files), PROTO_SEED_MAX, ret_image, ret_len);
}
