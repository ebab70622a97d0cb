/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image list.
 *
 * Trust: runs as the operator; reads what it may of the folder of images.
 */
#include <time.h>

#include "common/log.h"
#include "ctl/image/image.h"
#include "ctl/table.h"
#include "ctl/text.h"

#define COLOR_RED    31
#define COLOR_YELLOW 33

struct listing {
	struct ctl *c;
	const struct place *place;
	struct table table;
	json_t *json, *users;
	bool known;
};

static void list_row(struct listing *l, const struct base_image *image, const char *trouble)
{
	_cleanup_free_ char *users = users_of(l->users, image->name);
	char virtual[24], actual[24], least[TEXT_AGE_MAX], date[32] = "";
	time_t made = (time_t)image->made_s;
	struct tm tm;

	progress_bytes(image->virtual_bytes, virtual);
	progress_bytes(image->actual_bytes, actual);
	text_mib(image->min_disk_mib, least);
	if (made != 0 && localtime_r(&made, &tm))
		(void)strftime(date, sizeof(date), "%Y-%m-%d %H:%M", &tm);
	table_add(&l->table, image->name, 0);
	table_add(&l->table, image->format, trouble ? COLOR_RED : 0);
	table_add(&l->table, image->virtual_bytes ? virtual : "?", 0);
	table_add(&l->table, actual, 0);
	table_add(&l->table, image->min_disk_mib ? least : "?", 0);
	table_add(&l->table, image->kernel ? "kernel" : "firmware", 0);
	table_add(&l->table, date, 0);
	table_add(&l->table, image->sums, STR_EQ(image->sums, "changed") ? COLOR_YELLOW : 0);
	table_add(&l->table, users ? users : l->known ? "-" : "?", 0);
}

static int list_one(void *arg, const char *name)
{
	struct listing *l = arg;
	struct base_image image = {0};
	struct err err = {0};
	int r = record_read(l->place, name, &image, &err);

	if (!image.format) {
		ctl_note(l->c, "%s", err.text);
		return 0;
	}
	if (r < 0)
		ctl_note(l->c, "image %s: %s", name, err.text);
	if (l->c->json)
		(void)json_array_append_new(
			l->json,
			record_json(&image,
				    l->known || json_object_get(l->users, name) ? l->users : NULL));
	else
		list_row(l, &image, r < 0 ? err.text : NULL);
	return 0;
}

enum ctl_exit cmd_image_list(struct ctl *c)
{
	static const char *const headers[] = {"NAME",      "FORMAT", ">VIRTUAL", ">ON DISK",
					      ">MIN DISK", "BOOT",   "MADE",     "CHECKSUMS",
					      "USED BY",   NULL};
	_cleanup_place_ struct place p = PLACE_INIT;
	struct listing l = {.c = c, .place = &p};
	enum ctl_exit code = place_open(c, /* write= */ false, &p);
	int r;

	if (code != CTL_OK)
		return code;
	l.users = users_load(c, &p, &l.known, NULL);
	l.json = json_array();
	table_init(&l.table, headers);
	r = place_each(&p, list_one, &l);
	if (r < 0)
		code = ctl_fail(c, CTL_FAILED, "%s: %s", p.images_dir, log_errno_text(r));
	else if (c->json)
		ctl_print_json(l.json);
	else
		table_print(&l.table, stdout, c->color_out);
	table_done(&l.table);
	json_decref(l.json);
	json_decref(l.users);
	return code;
}
