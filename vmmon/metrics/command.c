/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command that prints a guest's figures, for any POSIX shell.
 *
 * The guest may be small and emulated: what can be read by the shell itself is, and in an interval
 * nothing but sleep is started. Every SLOW_LOOKS intervals the root file system is looked at, and
 * whether nvidia-smi runs where there is one; it prints by itself, each line marked as its own.
 * A line is one write, so that the two do not mix. Nobody who reads any more ends both.
 * Trust: runs in vmmon; makes constant text.
 */
#include "vmmon/metrics/command.h"

#define SLOW_LOOKS "20"

/* Within single quotes: it has none. %1$u.%2$03u seconds are %3$u milliseconds. */
static const char format[] =
	"exec /bin/sh -c '"
	"set -f; exec </dev/null 2>/dev/null; cd /; "
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; LC_ALL=C; "
	"export PATH LC_ALL; "
	"printf \"\\nqudata-metrics 1\\n\" || exit 1; "
	"g=; n=0; fs=; "
	"gpus() { nvidia-smi --format=csv,noheader,nounits -lms %3$u "
	"--query-gpu=index,utilization.gpu,temperature.gpu,memory.used,memory.total,power.draw | "
	"while read -r l; do echo \"gpu $l\" || exit; done; }; "
	"slow() { "
	"if command -v nvidia-smi >/dev/null && ! { [ \"$g\" ] && kill -0 $g; }; then "
	"gpus & g=$!; fi; "
	"set -- $(df -kP /); shift 8; fs=\"fs $1 $2\\\\n\"; }; "
	"while :; do "
	"if [ $n = 0 ]; then slow; n=" SLOW_LOOKS "; else fs=; fi; n=$((n - 1)); "
	"read -r _ a b c d e f h i _ </proc/stat; "
	"t=; while read -r k v _; do case $k in MemTotal:) t=$v ;; MemAvailable:) break ;; esac; "
	"done </proc/meminfo; "
	"x=0; y=0; while read -r k p _ _ _ _ _ _ _ q _; do case $k in "
	"lo: | docker* | br-* | veth*) ;; *:) x=$((x + p)); y=$((y + q)) ;; esac; "
	"done </proc/net/dev; "
	"r=0; w=0; while read -r _ _ k _ _ p _ _ _ q _; do case $k in "
	"[svh]d*[0-9] | xvd*[0-9] | nvme*p* | mmcblk*p*) ;; [svh]d* | xvd* | nvme* | mmcblk*) "
	"r=$((r + p)); w=$((w + q)) ;; esac; done </proc/diskstats; "
	"printf \"%%bcpu %%s %%s %%s %%s %%s %%s %%s %%s\\nmem %%s %%s\\nnet %%s %%s\\n"
	"dsk %%s %%s\\nend\\n\" "
	"\"$fs\" $a $b $c $d $e $f $h $i $t $v $x $y $r $w || exit 1; "
	"sleep %1$u.%2$03u || sleep 1 || exit 1; "
	"done'";

void command_make(uint32_t interval_ms, char ret_command[static COMMAND_MAX])
{
	(void)snprintf(ret_command, COMMAND_MAX, format, interval_ms / 1000, interval_ms % 1000,
		       interval_ms);
}
