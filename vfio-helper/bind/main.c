/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio-bind: explains the machine's GPUs; the acts come with the rest of this folder.
 * Trust: runs as anyone.
 */
#include "common/base.h"
#include "vfio-helper/bind/explain.h"

int main(int argc, char *argv[])
{
	if (argc > 1 && STR_EQ(argv[1], "--explain"))
		return explain_main(argc, argv);
	(void)fputs("vfio-bind: usage: vfio-bind --explain\n", stderr);
	return 2;
}
