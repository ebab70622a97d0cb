/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfio-bind --explain.
 */
#pragma once

/*
 * `vfio-bind --explain [--sysfs DIR [--proc DIR]] [--config FILE]`, argv[1] being --explain: judges
 * and prints, writes nothing else. Another sysfs than /sys has no processes unless --proc names
 * them, and with any privilege it is refused. Without --config it is /etc/qudata/helper.conf, or
 * what that would say if it were empty. Returns the exit code: 0, 1 when it could not read, 2 for
 * its arguments.
 */
int explain_main(int argc, char *argv[]);
