# SPDX-License-Identifier: Apache-2.0
"""A bind and release by vfio-bind against a bare shell script that does the same writes."""
import statistics
import time

from guestlib import LIBEXEC, PCI, functions, install, read, run
from binding import Unchanged, act, ok

ROUNDS = 15
BIND = r"""
d=/sys/bus/pci/devices/$1
[ -e $d/d3cold_allowed ] && echo 0 >$d/d3cold_allowed
echo vfio-pci >$d/driver_override
echo $1 >/sys/bus/pci/drivers/$2/unbind
echo $1 >/sys/bus/pci/drivers_probe
echo on >$d/power/control
[ "$(readlink $d/driver)" = ../../../../bus/pci/drivers/vfio-pci ]
"""
RELEASE = r"""
d=/sys/bus/pci/devices/$1
[ -e $d/reset ] && echo 1 >$d/reset
echo $2 >$d/driver_override
echo $1 >/sys/bus/pci/drivers/vfio-pci/unbind
echo $1 >/sys/bus/pci/drivers_probe
echo >$d/driver_override
[ -e $d/d3cold_allowed ] && echo $4 >$d/d3cold_allowed
echo $3 >$d/power/control
[ "$(readlink $d/driver)" = ../../../../bus/pci/drivers/$2 ]
"""


def timed(*commands):
    """Milliseconds of each command."""
    out = []
    for command in commands:
        begun = time.monotonic()
        command()
        out.append((time.monotonic() - begun) * 1000)
    return out


def median(rows, column):
    return statistics.median(row[column] for row in rows)


def bind_and_release():
    install()
    (gpu,) = functions("second")
    power, d3cold = read(PCI / gpu / "power/control"), read(PCI / gpu / "d3cold_allowed")
    by_shell, by_us, reading, starting, nothing = [], [], [], [], []
    with Unchanged():
        for _ in range(ROUNDS):  # turn by turn: the machine's load falls on both
            by_shell.append(timed(lambda: run("sh", "-ec", BIND, "sh", gpu, "bochs-drm"),
                                  lambda: run("sh", "-ec", RELEASE, "sh", gpu, "bochs-drm", power, d3cold or "")))
            # From its fork to its end, as the shell; bind-client is no part of it.
            by_us.append([float(ok(*words)["ms"]) for words in (("take", "bench", gpu), ("release", "bench"))])
            reading += timed(lambda: run(LIBEXEC / "vfio-explain"))
            starting += timed(lambda: act("take", "bench", "0000:00:00.0"))  # no request at all: it ends
            nothing += timed(lambda: run("/bin/true"))
    for column, name in enumerate(("bind", "release")):
        shell, ours = median(by_shell, column), median(by_us, column)
        print(f"bench {name}: vfio-bind {ours:.0f} ms, shell {shell:.0f} ms, {ours / shell:.2f}x", flush=True)
    total = [median([[sum(row)] for row in rows], 0) for rows in (by_us, by_shell)]
    print(f"bench bind+release: {total[0] / total[1]:.2f}x (aim 1.2x), {total[0] - total[1]:.0f} ms more. Of one act: "
          f"start and confinement {statistics.median(starting):.0f} ms (a bare process {statistics.median(nothing):.0f}), "
          f"with a list of all GPUs {statistics.median(reading):.0f} ms", flush=True)



GROUPS = {"bench": (bind_and_release,)}
