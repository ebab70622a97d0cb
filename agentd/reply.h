/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The envelope of every answer: {"ok":true,"data":…} or {"ok":false,"error":"…"}.
 * Trust: runs inside agentd; pure but for the sending.
 */
#pragma once

#include "agentd/http.h"
#include "agentd/instance.h"

/* A ready-made answer, envelope included (NULL: out of memory, 500). */
void reply_text(struct http_request *req, const char *json);

/* 200 with @data, which is freed (NULL: out of memory, 500). */
void reply_data(struct http_request *req, json_t *data);

/* @status with the reason. */
void reply_error(struct http_request *req, unsigned status, const char *format, ...) _printf_(3, 4);

/* 200 with the instance. */
void reply_instance(struct http_request *req, struct instance *inst);
