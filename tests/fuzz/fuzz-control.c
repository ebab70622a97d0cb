/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes what control-client reads of a control plane. Whatever is taken must be what agentd, which
 * checks it again, takes; and a refusal must leave nothing of the answer behind.
 * Trust: a test; reads what the fuzzer invents.
 */
#include "agentd/control/client.h"

#define INVARIANT(condition)                                                                       \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			(void)fprintf(stderr, "broken: %s, line %d\n", #condition, __LINE__);      \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct control_init none;
	struct control_init init = {0};
	struct err why = {0};
	int r;

	if (size > ANSWER_MAX)
		return 0;
	r = body_parse_init((const char *)data, size, &init, &why);
	if (r == 0) {
		INVARIANT(control_init_ok(&init));
		INVARIANT(init.secret[0] == '\0' || control_secret_ok(init.secret));
		INVARIANT(!strpbrk(init.frp_server, "{}\"'\\/ \n"));
		INVARIANT(body_parse_ok((const char *)data, size, &why) == 0);
	} else {
		INVARIANT(r == -EBADMSG && why.text[0] != '\0');
		INVARIANT(memcmp(&init, &none, sizeof(init)) == 0);
	}
	return 0;
}
