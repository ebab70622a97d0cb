# SPDX-License-Identifier: Apache-2.0
"""nvml-probe as the service manager starts it (one process for each connection, one at a time), and its answer.

`serve()` stands in for qudata-nvml.socket, which has Accept=yes and MaxConnections=1.
"""
import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import time

HEADER = struct.Struct("<IHHII")
HEAD = struct.Struct("<6I32s")
GPU = struct.Struct("<Q6I48s64s")
UNKNOWN = 0xFFFFFFFF
STATES = ["ok", "no_library", "no_driver", "unusable", "crashed", "late", "hung"]
REPORT_SIZE = HEAD.size + 16 * GPU.size


def text(field):
    return field.rstrip(b"\0").decode("ascii")


def decode(datagram):
    """The report as a dictionary; asserts its form."""
    op, _kind, _status, _id, length = HEADER.unpack_from(datagram)
    assert op == 1 and length == REPORT_SIZE == len(datagram) - HEADER.size, (op, length, len(datagram))
    version, state, detail, n, left_out, cuda, driver = HEAD.unpack_from(datagram, HEADER.size)
    assert version == 1
    gpus = []
    for i in range(n):
        address, percent, celsius, used, total, power, zero, uuid, name = GPU.unpack_from(
            datagram, HEADER.size + HEAD.size + i * GPU.size)
        assert zero == 0
        gpus.append({"address": address, "percent": percent, "celsius": celsius, "used": used, "total": total,
                     "power": power, "uuid": text(uuid), "name": text(name)})
    return {"state": STATES[state], "detail": detail, "left_out": left_out, "cuda": cuda, "driver": text(driver),
            "gpus": gpus}


def reader_of(process):
    """The pid of the reader that a probe has, or None."""
    try:
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as f:
            words = f.read().split()
    except OSError:
        return None
    return int(words[0]) if words else None


def is_alive(pid):
    """A zombie has nothing open any more."""
    try:
        with open(f"/proc/{pid}/status") as f:
            return not any(line.startswith("State:\t") and line[7] in "ZX" for line in f)
    except OSError:
        return False


def nobody():
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def libraries(folder, fake, other, names):
    """Copies of the stand-in: what one does is in its name."""
    for name in names:
        shutil.copy(other if name == "other" else fake, f"{folder}/{name}.so")
    os.chmod(folder, 0o755)


class Server(threading.Thread):
    """Starts a probe for each connection to @path; @library names what it loads, and may be changed."""

    def __init__(self, path, program, library, *options):
        super().__init__(daemon=True)
        self.program, self.library, self.options = program, library, options
        self.started, self.probe = 0, None
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        os.chmod(path, 0o666)
        self.listener.listen()
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with connection:
                    if self.is_busy():
                        continue
                    self.started += 1
                    self.probe = subprocess.Popen([self.program, "--library", self.library, *self.options],
                                                  stdin=connection, cwd="/", **nobody())

    def is_busy(self, patience=20):
        """Is the last probe there for long? One whose reader has gone just ends."""
        until = time.monotonic() + patience
        while self.probe and self.probe.poll() is None:
            if self.is_reading() or time.monotonic() > until:
                return True
            time.sleep(0.01)
        return False

    def is_reading(self):
        """Is there a process that may have GPUs open?"""
        reader = reader_of(self.probe) if self.probe else None
        return reader is not None and is_alive(reader)

    def end(self):
        with contextlib.suppress(OSError):  # it may have been ended before
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        if self.probe and self.probe.poll() is None:
            self.probe.kill()
            self.probe.wait()
