# SPDX-License-Identifier: Apache-2.0
"""The end-to-end cases. Each takes a running Suite; a group shares one suite and runs in order."""
import contextlib
import http.client
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

from lib import BOOT_S, DAEMONS, SSH_S, Suite, proc_status, wait_for

# CHOWN, DAC_READ_SEARCH, SETGID, SETUID, SETPCAP, SYS_PTRACE
HELPER_CAPS = sum(1 << n for n in (0, 2, 6, 7, 8, 19))


# ---- life: one instance through the bare paths, as a client of the replaced agents sees it ---------------
class Life:
    def __init__(self, suite):
        self.s = suite
        self.id = None

    def bare(self, method, body=None, query=""):
        return self.s.tcp(method, "/instances" + query, body, self.s.secret)

    def create(self):
        answer = self.bare("POST", {"cpus": "2", "memory": "1G", "ssh_enabled": True,
                                    "ports": {"8080": "auto"}, "storage_gb": 4})
        assert answer.data["success"] is True, answer.raw
        assert set(answer.data["ports"]) == {"22", "8080"}, answer.raw
        assert all(isinstance(p, str) and 1024 <= int(p) <= 65535 for p in answer.data["ports"].values())
        self.id = self.bare("GET").data["instance_id"]
        assert self.bare("POST", {}).status == 409, "a second create on the bare path must conflict"

    def becomes_running(self):
        seen = self.s.wait(self.id, "running")
        assert seen["status"] == "running" and seen["ports"]["22"] == str(seen["ssh"]["port"]), seen

    def key_and_login(self):
        _, public = self.s.key()
        added = self.s.tcp("POST", "/ssh", {"ssh_pubkey": public}, self.s.secret)
        assert added.status == 200, added.raw
        again = self.s.tcp("POST", "/ssh", {"ssh_pubkey": public}, self.s.secret)
        assert again.status == 200, "adding a key twice is no error"
        assert len(self.s.tcp("GET", "/ssh", None, self.s.secret).data["keys"]) == 1
        assert self.s.add_key(self.id)["applied"]
        out = self.s.ssh(self.id, "id -un; nproc; echo kept >/root/kept; sync").stdout.split()
        assert out == ["root", "2"], out

    def disk_has_the_size_asked_for(self):
        blocks = int(self.s.ssh(self.id, "df -B1 --output=size / | tail -n 1").stdout)
        assert 3.5 * 2**30 < blocks <= 4 * 2**30, f"root file system of {blocks} bytes"

    def wrong_keys_and_passwords_are_refused(self):
        self.s.key("stranger")
        refused = self.s.ssh(self.id, "true", key="stranger", check=False)
        assert refused.returncode != 0 and "Permission denied (publickey)" in refused.stderr, refused.stderr

    def host_key_is_the_pinned_one(self):
        """A client that knows no key yet is shown the pinned one, and the guest has no other."""
        learned = self.s.scratch / "learned"
        base = self.s.ssh_base(self.id, known=learned, checking="accept-new")
        subprocess.run(base + ["true"], check=True, timeout=SSH_S, stdin=subprocess.DEVNULL)
        seen = learned.read_text().split()[1:3]
        assert seen == self.s.status(self.id)["ssh"]["host_key"].split()[:2], seen
        other = subprocess.run(base[:1] + ["-o", "LogLevel=INFO", "-o", "HostKeyAlgorithms=rsa-sha2-512,ecdsa-sha2-nistp256"] + base[1:] + ["true"],
                               capture_output=True, text=True, timeout=SSH_S, check=False, stdin=subprocess.DEVNULL)
        assert other.returncode != 0 and "no matching host key" in other.stderr, other.stderr

    def removed_key_no_longer_works(self):
        _, other = self.s.key("other")
        self.s.tcp("POST", "/ssh", {"ssh_pubkey": other}, self.s.secret).data
        assert self.s.add_key(self.id, "other")["applied"]
        self.s.ssh(self.id, "true", key="other")
        self.s.tcp("DELETE", "/ssh", {"ssh_pubkey": other}, self.s.secret).data
        assert self.s.remove_key(self.id, "other")["applied"]
        assert self.s.ssh(self.id, "true", key="other", check=False).returncode != 0
        self.s.ssh(self.id, "true")

    def logs_show_the_console(self):
        assert "logs" in self.bare("GET", query="?logs=true").data
        wait_for("the console's words", lambda: any(word in self.s.console(self.id).lower() for word in ("linux", "debian")))

    def console_answers(self):
        """A line typed into the console comes back: the serial line works both ways."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(120)
        sock.connect(self.s.ctl_socket)
        with contextlib.closing(sock):
            sock.sendall(f"GET /v1/instances/{self.id}/console HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
                         "Upgrade: qudata-console\r\n\r\n".encode())
            data = b""
            while b"\r\n\r\n" not in data:
                data += sock.recv(1000)
            assert data.startswith(b"HTTP/1.1 101"), data[:100]
            self.s.ssh(self.id, "(sleep 1; echo e2e-marker-$((40 + 2)) >/dev/ttyS0) >/dev/null 2>&1 &")
            deadline = time.monotonic() + 120
            while b"e2e-marker-42" not in data and time.monotonic() < deadline:
                data += sock.recv(1000)
            assert b"e2e-marker-42" in data, data[-300:]

    def figures(self, query=""):
        return self.s.get(f"/v1/instances/{self.id}/metrics{query}").data

    def more_figures(self, since, count, timeout=180.0):
        """The samples behind @since, once there are so many."""
        return wait_for(f"{count} samples", lambda: (lambda f: len(f["samples"]) >= count and f)(
            self.figures(f"?since={since}")), timeout)

    def figures_flow(self):
        """About two a second, of the real guest and its QEMU; `since` goes on where the last answer ended."""
        begun = self.more_figures(0, 2)
        now = self.more_figures(begun["newest"], 20)
        samples = now["samples"]
        assert [s["seq"] for s in samples] == list(range(begun["newest"] + 1, now["newest"] + 1)), now
        last = samples[-1]

        def at_their_pace():  # of the newest ones: a host that is busy may hold up some, and bring them all at once then
            times = [s["time_ms"] for s in self.figures("?limit=20")["samples"]]
            return 400 <= (times[-1] - times[0]) / (len(times) - 1) <= 2000
        wait_for("about two a second", at_their_pace, 180)
        assert 900 * 2**20 < last["memory_total"] < 1024 * 2**20 and 0 < last["memory_available"] < last["memory_total"], last
        assert 3.5 * 2**30 < last["root_total"] <= 4 * 2**30 and 0 < last["root_used"] < last["root_total"], last
        assert last["network_in"] > 0 and last["network_out"] > 0 and last["disk_read"] > 2**20, last
        assert last["gpus"] == [] and last["container"] == "none" and now["fake_gpus"] is False, now
        assert last["qemu"]["rss"] > 64 * 2**20 and last["qemu"]["cpu_ms"] > samples[0]["qemu"]["cpu_ms"] - 1, last
        assert all(s["cpu_percent"] is None or 0 <= s["cpu_percent"] <= 100 for s in samples), samples
        assert self.figures("?limit=3")["samples"][-1]["seq"] >= last["seq"]
        assert len(self.figures("?limit=3")["samples"]) == 3
        newest = self.figures("?limit=1")["newest"]
        assert self.figures(f"?since={newest + 100000}")["samples"] == []
        assert self.s.status(self.id)["health"] == "healthy" and now["health"] == "healthy"
        for query in ("since=", "since=-1", "since=x", "since=1.5", "since=1&since=2", "since=99999999999999999999",
                      "since=9007199254740992", "limit=0", "limit=1201", "limit=x"):
            bad = self.s.get(f"/v1/instances/{self.id}/metrics?{query}")
            assert bad.status == 400 and query.split("=", 1)[0] in bad.error, (query, bad.raw)

    def figures_show_load(self):
        before = self.figures("?limit=1")["newest"]
        self.s.ssh(self.id, "timeout 300 sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null & "
                            "timeout 300 sh -c 'while :; do :; done' >/dev/null 2>&1 </dev/null &")

        def loaded():
            samples = self.figures(f"?since={before}")["samples"]
            busy = [s for s in samples if (s["cpu_percent"] or 0) > 80]
            return len(busy) >= 3 and busy
        busy = wait_for("load to show", loaded, 180)
        assert busy[-1]["qemu"]["cpu_ms"] > busy[0]["qemu"]["cpu_ms"], busy
        self.s.ssh(self.id, "pkill -x timeout")

    def figures_come_back(self):
        """Whoever kills the command in the guest is told nothing more than that it comes back: and looks for GPUs anew."""
        self.s.ssh(self.id, "cat >/usr/local/bin/nvidia-smi && chmod +x /usr/local/bin/nvidia-smi",
                   stdin="#!/bin/sh\ntest \"$2\" = -lms || exit 1\n"
                         "while echo '0, 97, 61, 10240, 81920, 350.25' && sleep 1; do :; done\n")
        self.s.ssh(self.id, "pkill -9 -f qudata-metrics.1")
        after = self.figures("?limit=1")["newest"]
        assert self.more_figures(after, 5)["health"] == "healthy"
        wait_for("a GPU's figures", lambda: self.figures("?limit=1")["samples"][0]["gpus"] == [
            {"index": 0, "percent": 97, "celsius": 61, "memory_used": 10 * 2**30, "memory_total": 80 * 2**30,
             "watts": 350.2}], 180)
        self.s.ssh(self.id, "rm /usr/local/bin/nvidia*; pkill -f '[n]vidia-smi'")
        wait_for("no figures of a GPU that has gone", lambda: self.figures("?limit=1")["samples"][0]["gpus"] == [], 180)

    def boot_failure_has_the_last_lines(self):
        """A guest that hangs at its boot and is killed there: what it said last is in the error. The unit that hangs has no
        default dependencies: sshd starts before basic.target, and systemd would break the cycle where it likes."""
        self.s.ssh(self.id, "cat >/etc/systemd/system/stuck.service && systemctl -q enable stuck.service && sync",
                   stdin="[Unit]\nDefaultDependencies=no\nBefore=ssh.service\n[Service]\nType=oneshot\nExecStart=/bin/sh -c "
                         "'printf \"e2e: stuck\\\\n\\\\033[31mbadly\\\\n\" >/dev/ttyS0; exec sleep 10000'\n"
                         "[Install]\nWantedBy=multi-user.target\n")
        assert self.bare("PUT", {"action": "restart"}).status == 200
        self.s.wait(self.id, "rebooting")
        wait_for("the guest's words", lambda: "badly" in self.s.console(self.id), BOOT_S)
        for pid in self.s.vm_pids():
            os.kill(pid, signal.SIGKILL)
        seen = self.s.wait(self.id, "error")
        assert "signal 9" in seen["error"] and "; the console said last: " in seen["error"], seen
        assert seen["error"].endswith("e2e: stuck | badly"), seen
        # vmmon, which has the figures, sees the end by itself.
        none = wait_for("no figures any more", lambda: (lambda f: f["samples"] == [] and f["health"] == "unknown" and f)(self.figures()))
        assert none["status"] == "error" and self.s.status(self.id)["health"] == "unknown", none

    def guest_reboot_is_noticed(self):
        generation = self.s.vm_pids()
        self.s.ssh(self.id, "nohup sh -c 'sleep 1; systemctl reboot' >/dev/null 2>&1 </dev/null &")
        self.s.wait(self.id, "rebooting")
        self.s.wait(self.id, "running")
        assert self.s.vm_pids() == generation, "a guest's own reboot must not replace QEMU"

    def stop_start_keep_the_disk(self):
        assert self.bare("PUT", {"action": "stop"}).status == 200
        self.s.wait(self.id, "paused")
        assert self.s.vm_pids() == {}, "a stopped instance has no QEMU"
        assert self.bare("PUT", {"action": "stop"}).status == 200, "stop of a stopped one is no error"
        assert self.bare("PUT", {"command": "start"}).status == 200
        self.s.wait(self.id, "running")
        assert self.s.ssh(self.id, "cat /root/kept").stdout == "kept\n"

    def restart(self):
        before = self.s.vm_pids()
        assert self.bare("PUT", {"action": "restart"}).status == 200
        self.s.wait(self.id, "rebooting")
        self.s.wait(self.id, "running")
        assert self.s.vm_pids().keys() != before.keys()
        assert self.s.ssh(self.id, "cat /root/kept").stdout == "kept\n"

    def delete_leaves_nothing(self):
        assert self.bare("DELETE").status == 200
        self.s.wait(self.id, "destroyed")
        assert self.bare("DELETE").status == 200, "DELETE is idempotent"
        wait_for("no process of the VM is left", lambda: not self.s.vm_pids() and not self.s.vm_pids("passt"))
        left = [p for top in ("lib/helper/vms", "run/vm", "lib/mon/guests", "run/mon")
                for p in (self.s.root / top).rglob(f"*{self.id}*")]
        assert left == [], left


def life(report, suite):
    case = Life(suite)
    for step in ("create", "becomes_running", "key_and_login", "disk_has_the_size_asked_for",
                 "wrong_keys_and_passwords_are_refused", "host_key_is_the_pinned_one",
                 "removed_key_no_longer_works", "logs_show_the_console", "console_answers",
                 "figures_flow", "figures_show_load", "figures_come_back",
                 "guest_reboot_is_noticed", "stop_start_keep_the_disk", "restart",
                 "boot_failure_has_the_last_lines", "delete_leaves_nothing"):
        if not report.run(f"life/{step}", getattr(case, step)):
            break


# ---- api: requests that are wrong change nothing ---------------------------------------------------------
def authentication(s):
    assert s.tcp("GET", "/ping").status == 200
    assert s.tcp("GET", "/ping").json == {"ok": True, "data": None}
    for path in ("/instances", "/ssh", "/v1/instances", "/v1/host", "/nothing"):
        assert s.tcp("GET", path).status == 401, path
        assert s.tcp("GET", path, secret="sk-wrong").status == 403, path
        assert s.tcp("GET", path, secret=s.secret + "x").status == 403, path
    assert s.secret.startswith("sk-")
    assert (s.root / "lib/agentd/secret").stat().st_mode & 0o777 == 0o600


BAD_REQUESTS = [
    ({"cpus": "0"}, "cpus"), ({"cpus": "many"}, "cpus"), ({"cpus": -1}, "cpus"), ({"cpus": 100000}, "cpus"),
    ({"memory": "8X"}, "memory"), ({"memory": "8G,foo=bar"}, "memory"), ({"memory": "1M"}, "memory"),
    ({"memory": {}}, "memory"), ({"memory": "99999999999999999999G"}, "memory"),
    ({"storage_gb": "x"}, "storage_gb"), ({"storage_gb": -3}, "storage_gb"), ({"disk_size_gb": []}, "disk_size_gb"),
    ({"ports": {"70000": "auto"}}, "ports"), ({"ports": {"22": "x,romfile=/etc/shadow"}}, "ports"),
    ({"ports": {"80": "80"}}, "ports"), ({"ports": "22"}, "ports"), ({"ports": ["abc"]}, "ports"),
    ({"ports": [{"container_port": 80, "proto": "sctp"}]}, "ports"), ({"ports": [{"remote_port": 20000}]}, "ports"),
    ({"ports": {str(p): "auto" for p in range(1, 60)}}, "ports"),
    ({"env_variables": {"A=B": "c"}}, "env_variables"), ({"env_variables": "x"}, "env_variables"),
    ({"ssh_enabled": "maybe"}, "ssh_enabled"), ({"image": "../../etc"}, "image"), ({"image": 7}, "image"),
    ({"command": ["x"]}, "command"), ({"gpu_addr": "01:00.0;rm"}, "gpu_addr"),
    ({"gpu_addr": "0000:01:00.0,,"}, "gpu_addr"), ({"gpu_addr": ["0000:01:00.0", "0000:01:00.0"]}, "gpu_addr"),
    ({"gpu_count": -1}, "gpu_count"), ({"gpu_count": 17}, "gpu_count"), ({"gpu_count": "many"}, "gpu_count"),
    ({"gpus": True}, "gpus"), ({"gpus": 1, "gpu_count": 2}, "gpu_count"), ({"gpus": {"0": 1}}, "gpus"),
]


def files_at_rest(s):
    """All files of the suite, once the daemons have made what they make by themselves."""
    def files():
        return sorted(str(p) for p in s.root.rglob("*") if "log" not in p.parts)

    def the_same_twice():
        first = files()
        time.sleep(1)
        return files() == first and first
    wait_for("the daemons are connected", lambda: all(p["connected"] for p in s.get("/v1/host").data["peers"].values()))
    wait_for("vfio-helper has looked for GPUs", lambda: s.get("/v1/gpus").status == 200)
    return wait_for("no file comes or goes", the_same_twice)


def bad_requests_name_the_field(s):
    before = files_at_rest(s)
    for body, field in BAD_REQUESTS:
        answer = s.post("/v1/instances", body)
        assert 400 <= answer.status < 500, (body, answer.status, answer.raw)
        assert field in answer.error, (body, answer.error)
    for raw in ("", "{", "[]", "null", "7", '{"cpus":1,"cpus":2}', '{"a":' * 300 + "1" + "}" * 300, "\xff"):
        answer = s.call("POST", "/v1/instances", raw)
        assert answer.status == 400 and answer.error, (raw[:40], answer.status, answer.raw)
    assert s.instances() == []
    assert files_at_rest(s) == before


def host_without_gpus(s):
    """No IOMMU here: nothing is for rent, and everybody is told so in their own words."""
    def at_leisure(method, path, body=None):
        """What is answered when vfio-helper is there, and does nothing else with GPUs."""
        return wait_for(f"{method} {path}", lambda: (lambda a: a.status != 503 and b"is not finished" not in a.raw and a)(s.call(method, path, body)))

    assert [g for g in at_leisure("GET", "/v1/gpus").data["gpus"] if g["verdict"] == "rentable"] == []
    assert s.tcp("GET", "/v1/gpus", secret=s.secret).status == 403
    assert s.tcp("POST", "/v1/gpus/recover", {}, s.secret).status == 403
    for body, field in (({"gpu_count": 1}, "gpu_count"), ({"gpu_addr": "0000:ff:1f.7"}, "gpu_addr"),
                        ({"gpus": ["0000:ff:1f.7"]}, "gpus"),
                        ({"env_variables": {"QUDATA_GPU_COUNT": "2"}}, "env_variables.QUDATA_GPU_COUNT")):
        answer = at_leisure("POST", "/v1/instances", body)
        assert answer.status in (409, 422) and answer.error.startswith(field + ": "), (body, answer.raw)
    assert at_leisure("POST", "/v1/gpus/recover", {}).data == {"recovered": 0, "left": 0}
    assert s.instances() == []


def wrong_paths_and_methods(s):
    assert s.get("/v1/instances/0123456789abcdef").status == 404
    assert s.get("/v1/instances/../../etc/passwd").status in (400, 404)
    assert s.get("/v1/instances/%2e%2e%2f").status in (400, 404)
    assert s.get("/nothing").status == 404
    refused = s.call("PATCH", "/v1/instances")
    assert refused.status in (405, 501), refused.status
    refused = s.call("DELETE", "/v1/instances")
    assert refused.status == 405 and "GET" in refused.headers.get("Allow", ""), refused.headers
    assert s.put("/instances", {"action": "start"}).status in (404, 409)
    assert s.get("/instances").status in (200, 404)


def body_too_large(s):
    answer = s.call("POST", "/v1/instances", '{"command":"' + "x" * (1 << 20) + '"}')
    assert answer.status == 413, answer.status


def bad_keys_are_refused(s):
    instance = s.create()
    path = f"/v1/instances/{instance}/ssh"
    good = s.key()[1]
    for key in ("", "ssh-ed25519", "ssh-ed25519 AAAA", good + "\n" + good, 'command="x" ' + good,
                good.replace("ssh-ed25519", "ssh-rsa"), "ssh-dss " + good.split()[1], good + "\x1b[2J", "x" * 20000):
        answer = s.post(path, {"ssh_pubkey": key})
        assert answer.status == 400 and "ssh_pubkey" in answer.error, (key[:50], answer.raw[:200])
    assert s.get(path).data["keys"] == []
    s.delete(f"/v1/instances/{instance}").data
    s.wait(instance, "destroyed")


def api(report, suite):
    report.run("api/authentication", authentication, suite)
    report.run("api/bad_requests_name_the_field", bad_requests_name_the_field, suite)
    report.run("api/host_without_gpus", host_without_gpus, suite)
    report.run("api/wrong_paths_and_methods", wrong_paths_and_methods, suite)
    report.run("api/body_too_large", body_too_large, suite)
    report.run("api/bad_keys_are_refused", bad_keys_are_refused, suite)


# ---- boundary: what the processes hold, seen from /proc ----------------------------------------------------
def four_users(s):
    uids = {name: int(proc_status(s.pid(name))["Uid"].split()[0]) for name in DAEMONS}
    assert len(set(uids.values())) == 4 and uids["vfio-helper"] == 0, uids


def daemons_are_confined(s):
    for name in DAEMONS:
        pids = [s.pid(name)]
        if name == "vfio-helper":
            pids += children(s.pid(name), "vfio-broker")
            assert len(pids) == 2, "the helper has one broker"
            assert int(proc_status(pids[1])["CapBnd"], 16) == 0 and proc_status(pids[1])["Uid"].split()[0] != "0"
        for pid in pids:
            st = proc_status(pid)
            assert st["Seccomp"] == "2" and st["NoNewPrivs"] == "1", (name, st["Seccomp"], st["NoNewPrivs"])
            # An undumpable process's files in /proc belong to root.
            assert os.stat(f"/proc/{pid}/environ").st_uid == 0, name
            assert pathlib.Path(f"/proc/{pid}/limits").read_text().split("Max core file size")[1].split()[:2] == ["0", "0"]
        caps = {k: int(proc_status(s.pid(name))[k], 16) for k in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")}
        if name == "vfio-helper":
            assert caps["CapEff"] & ~HELPER_CAPS == 0, hex(caps["CapEff"])
            assert caps["CapBnd"] & ~HELPER_CAPS == 0, hex(caps["CapBnd"])
        else:
            assert set(caps.values()) == {0}, (name, caps)


def children(pid, name):
    """Those of that name; others may end at any moment."""
    found = []
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            found += [int(child)] if proc_status(child)["Name"] == name else []
    return found


def qemu_is_confined(s):
    found = s.vm_pids()
    assert found, "no QEMU to look at"
    for pid, uid in found.items():
        st = proc_status(pid)
        assert uid != 0 and st["Seccomp"] == "2" and st["NoNewPrivs"] == "1", st
        assert all(int(st[k], 16) == 0 for k in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")), st
        assert st["Groups"].split() in ([], [st["Gid"].split()[0]]) or "kvm" in st["Groups"], st["Groups"]
        environ = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        assert {e.split(b"=")[0] for e in environ if e} <= {b"PATH", b"LANG"}, environ
        args = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        for must in (b"-nodefaults", b"-no-user-config"):
            assert must in args, must
        sandbox = args[args.index(b"-sandbox") + 1]
        for part in (b"obsolete=deny", b"elevateprivileges=deny", b"spawn=deny", b"resourcecontrol=deny"):
            assert part in sandbox, sandbox
        for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(fd)
            except FileNotFoundError:  # closed meanwhile
                continue
            assert not re.search(r"/(agentd|mon|helper\.sock|audit)", target.replace(str(s.root / "lib/helper/vms"), "")), target
            assert "/etc/" not in target, target
    st = s.vm_pids("passt")
    assert len(st) == len(found), (st, found)
    for pid in st:
        assert proc_status(pid)["NoNewPrivs"] == "1"


def other_users_cannot_reach_the_vm(s):
    """agentd's user opens neither a VM's sockets nor its disk; a VM's user opens nothing of another's."""
    vm = next((s.root / "run/vm").iterdir())
    for path in (vm / "qmp.sock", vm / "console.sock"):
        assert path.exists()
        code = f"import socket;s=socket.socket(socket.AF_UNIX);s.connect({str(path)!r})"
        for user in ("qudata", "qudata-frp", "qudata-vm1"):
            tried = subprocess.run(["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "/usr/bin/python3", "-c", code],
                                   capture_output=True, text=True, check=False)
            assert tried.stderr.strip().endswith("Permission denied"), (user, path, tried.stderr)
        allowed = subprocess.run(["setpriv", "--reuid", "qudata-mon", "--regid", "qudata-mon", "--clear-groups", "/usr/bin/python3",
                                  "-c", code], capture_output=True, text=True, check=False)
        assert allowed.returncode == 0, f"vmmon's user is let in, so the refusals mean something: {allowed.stderr}"
    for user in ("qudata", "qudata-mon", "qudata-vm0"):
        for path in ("lib/helper", "lib/helper/vms", "lib/helper/audit.log"):
            tried = subprocess.run(["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "ls", "-l",
                                    s.root / path / "." if path != "lib/helper/audit.log" else s.root / path],
                                   capture_output=True, text=True, check=False)
            assert tried.returncode != 0 and "denied" in tried.stderr, (user, path, tried)
    tried = subprocess.run(["setpriv", "--reuid", "qudata", "--regid", "qudata", "--clear-groups", "cat",
                            s.root / "lib/mon/management_key"], capture_output=True, text=True, check=False)
    assert tried.returncode != 0


def no_secret_is_visible(s):
    secrets = [s.secret]
    for path in (s.root / "lib/mon").rglob("*"):
        if path.is_file():
            secrets += re.findall(r"[A-Za-z0-9+/]{60,}", path.read_text(errors="replace"))[:1]
    places = list((s.root / "log").glob("*"))
    for pid in [s.pid(n) for n in DAEMONS] + list(s.vm_pids()) + list(s.vm_pids("passt")):
        places += [pathlib.Path(f"/proc/{pid}/cmdline"), pathlib.Path(f"/proc/{pid}/environ")]
    for place in places:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = place.read_text(errors="replace")
            for secret in secrets:
                assert secret not in text, f"a secret is in {place}"
            assert "PRIVATE KEY" not in text, place


def audit_chain_holds(s):
    log = s.root / "lib/helper/audit.log"
    verify = [str(s.build / "ctl/qudatactl"), "audit", "verify", str(log)]
    # Its last line may be just being written.
    wait_for("the chain holds", lambda: subprocess.run(verify, capture_output=True, check=False).returncode == 0, 30)
    bad = s.scratch / "audit.log"
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 4, "prepare, seed, start and more were audited"
    for forged in (lines[:1] + lines[2:], lines[:2] + [lines[2].replace(b"0", b"1", 1)] + lines[3:]):
        bad.write_bytes(b"".join(forged))
        assert subprocess.run(verify[:-1] + [str(bad)], capture_output=True, check=False).returncode == 1


# ---- isolation: from inside the guest -----------------------------------------------------------------------
def host_addresses():
    out = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    return sorted(set(re.findall(r"inet ([0-9.]+)/", out)))


GUEST_PROBE = r"""
dev=$(ls /sys/class/net | grep -v lo | head -n 1)
gw=$(ip -4 route show default | awk '{print $3}')
ip addr del 127.0.0.1/8 dev lo 2>/dev/null
ip route flush table local dev lo 2>/dev/null
ip route add 127.0.0.0/8 via "$gw" dev "$dev" onlink 2>/dev/null
sysctl -q -w "net.ipv4.conf.$dev.route_localnet=1" 2>/dev/null || echo 1 >"/proc/sys/net/ipv4/conf/$dev/route_localnet"
for a in $gw @ADDRESSES@; do (
    if timeout 15 bash -c "exec 3<>/dev/tcp/$a/@PORT@ && printf 'GET /ping HTTP/1.1\r\nHost: x\r\n\r\n' >&3 && head -c 12 <&3" 2>/dev/null |
            grep -q HTTP; then echo "REACHED $a"; else echo "closed $a"; fi
) & done
wait
ip addr add 127.0.0.1/8 dev lo 2>/dev/null
echo probed
"""


# Runs in a network namespace of its own, as the uid of its argument: who hears what this uid sends?
HEARD = r"""
import os, select, socket, sys, time
targets = ["127.0.0.1", "127.8.8.8", "10.77.0.5", "10.77.0.255", "255.255.255.255", "224.0.0.251", "::1", "fd77::5", "ff02::1:3%veth0"]
listeners = []
for family, kind in ((socket.AF_INET6, socket.SOCK_DGRAM), (socket.AF_INET6, socket.SOCK_STREAM)):
    s = socket.socket(family, kind)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("::", 7777))
    if kind == socket.SOCK_STREAM:
        s.listen(20)
    listeners.append(s)
udp, tcp = listeners
index = socket.if_nametoindex("veth0")
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, "ff02::1:3") + index.to_bytes(4, "little"))
m4 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
m4.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
m4.bind(("224.0.0.251", 7777))
m4.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + socket.inet_aton("10.77.0.5"))
# Whose a packet is, is who made the socket: root's come through, after all the others, and tell that there are no more.
ends = [(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), (a, 7777)) for a in ("127.0.0.1", "224.0.0.251")]
resolved = [(t, *socket.getaddrinfo(t, 7777, socket.AF_INET6 if ":" in t else socket.AF_INET, socket.SOCK_DGRAM)[0]) for t in targets]
os.setresuid(*[int(sys.argv[1])] * 3)
heard = []
for t, family, _, _, _, address in resolved:
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    try:
        s.sendto(t.encode(), address)
    except OSError:
        pass
    if t in ("127.0.0.1", "127.8.8.8", "10.77.0.5", "::1", "fd77::5"):
        s = socket.socket(family, socket.SOCK_STREAM)
        s.settimeout(10)
        try:
            s.connect((t, 7777))
            heard.append("tcp " + t)
        except OSError:
            pass
for s, address in ends:
    s.sendto(b"end", address)
ended, until = set(), time.monotonic() + 60
while until > time.monotonic():
    for listener in select.select([udp, m4], [], [], 1)[0]:
        word = listener.recv(100).decode()
        if word != "end":
            heard.append("udp " + word)
        elif listener not in ended:
            ended.add(listener)
            if len(ended) == 2:  # what another CPU still carries
                until = time.monotonic() + 1
print("heard:", *heard, sep=";")
"""


def firewall_covers_every_address(s):
    """Loopback, own addresses, broadcasts and multicasts: a slot's uid reaches none, another uid all."""
    rules = subprocess.run(["nft", "list", "table", "inet", "qudata"], capture_output=True, text=True, check=True).stdout
    script = s.scratch / "heard.py"
    script.write_text(HEARD)
    (s.scratch / "rules.nft").write_text(rules)
    setup = ("ip link set lo up && ip link add veth0 type veth peer name veth1 && ip link set veth1 up && ip link set veth0 up && "
             "ip addr add 10.77.0.5/24 brd + dev veth0 && ip -6 addr add fd77::5/64 dev veth0 nodad && "
             "ip route add default via 10.77.0.1 && nft -f \"$1\" && i=0 && "
             # An IPv6 address is of use when nobody else was found to have it.
             "until ip -6 -o addr show dev veth0 scope link | grep -v tentative | grep -q fe80; do "
             "i=$((i + 1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done && python3 \"$2\" \"$3\"")

    def heard(uid):
        return subprocess.run(["unshare", "--net", "sh", "-c", setup, "sh", s.scratch / "rules.nft", script, str(uid)],
                              capture_output=True, text=True, check=True, timeout=180).stdout.strip()

    slot = subprocess.run(["id", "-u", "qudata-vm0"], capture_output=True, text=True, check=True).stdout.strip()
    other = heard(65534)
    for word in ("tcp 127.0.0.1", "udp 10.77.0.255", "udp 255.255.255.255", "udp 224.0.0.251", "udp ff02::1:3%veth0"):
        assert word in other, f"the listeners hear too little for the test to mean anything: {other}"
    assert heard(slot) == "heard:", heard(slot)


def probe_from_guest(s, instance):
    script = GUEST_PROBE.replace("@PORT@", str(s.http_port)).replace("@ADDRESSES@", " ".join(host_addresses()))
    done = s.ssh(instance, script, timeout=300)
    assert "probed" in done.stdout, done.stdout + done.stderr
    return done.stdout


def guest_cannot_reach_the_host(s, instance):
    s.add_key(instance)
    seen = probe_from_guest(s, instance)
    assert "REACHED" not in seen and "closed 127.0.0.1" in seen, seen


def the_probe_can_fail(s, instance):
    """The same probe with the firewall gone does reach agentd: so the test above proves the firewall."""
    rules = subprocess.run(["nft", "list", "table", "inet", "qudata"], capture_output=True, text=True, check=True).stdout
    subprocess.run(["nft", "delete", "table", "inet", "qudata"], check=True)
    try:
        seen = probe_from_guest(s, instance)
        other = s.create()
        stuck = s.wait(other, "error")
    finally:
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    assert "REACHED 127.0.0.1" in seen, "passt has become safe by itself: " + seen
    # And the helper refuses to start a VM when the firewall does not hold.
    assert stuck["error"], stuck
    assert len(s.vm_pids()) == 1
    s.delete(f"/v1/instances/{other}").data
    s.wait(other, "destroyed")


def boundary(report, suite):
    instance = suite.create()
    if not report.run("boundary/guest_runs", suite.wait, instance, "running"):
        return
    for case in (four_users, daemons_are_confined, qemu_is_confined, other_users_cannot_reach_the_vm,
                 no_secret_is_visible, audit_chain_holds, firewall_covers_every_address):
        report.run(f"boundary/{case.__name__}", case, suite)
    for case in (guest_cannot_reach_the_host, the_probe_can_fail):
        report.run(f"boundary/{case.__name__}", case, suite, instance)
    suite.delete(f"/v1/instances/{instance}")
    report.run("boundary/clean_end", suite.wait, instance, "destroyed")


# ---- several instances side by side ---------------------------------------------------------------------------
def several(report, suite):
    def two_run():
        a, b = suite.create(name="a"), suite.create(ports=["8080"])
        for i in (a, b):
            suite.wait(i, "running")
            suite.add_key(i)
            suite.ssh(i, f"echo {i} >/root/me")
        ports = [suite.status(i)["ports"]["22"] for i in (a, b)]
        assert len(set(ports)) == 2, ports
        assert len(set(suite.vm_pids().values())) == 2, "each VM has its own user"
        suite.delete(f"/v1/instances/{a}").data
        suite.wait(a, "destroyed")
        assert suite.ssh(b, "cat /root/me").stdout.strip() == b, "one's end must not touch the other"
        suite.delete(f"/v1/instances/{b}").data
        suite.wait(b, "destroyed")

    def fixed_port_taken_twice():
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = 20000 + s.getsockname()[1] % 12000  # up to 32767 may be asked for
        a = suite.create(ports={"80": str(port)})
        answer = suite.post("/v1/instances", {"ports": {"80": str(port)}})
        assert answer.status == 409 and str(port) in answer.error, answer.raw
        suite.delete(f"/v1/instances/{a}").data
        suite.wait(a, "destroyed")

    report.run("several/two_run_side_by_side", two_run)
    report.run("several/fixed_port_taken_twice", fixed_port_taken_twice)


# ---- crash: kill -9 of every daemon at many moments ------------------------------------------------------------
def killed_at_every_moment(suite, daemon, instance_fields=None):
    """Kills the daemon again and again while an instance is made and booted: it must still become running."""
    fields = {"cpus": "1", "memory": "512M", "ssh_enabled": True, **(instance_fields or {})}
    instance = suite.post("/v1/instances", fields).data["instance_id"]
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
        time.sleep(delay)
        suite.kill(daemon)
        suite.start(daemon)
    suite.wait(instance, "running")
    suite.add_key(instance)
    suite.ssh(instance, "true")
    wait_for("one QEMU, and no other", lambda: len(suite.vm_pids()) == 1)
    return instance


def killed_while_running(suite, instance):
    """kill -9 of each daemon, and of all together, with a running guest: the VM never stops."""
    before = suite.vm_pids()
    boot = suite.ssh(instance, "cat /proc/sys/kernel/random/boot_id").stdout
    for names in (["agentd"], ["vmmon"], ["vfio-helper"], ["frp-supervisor"], list(DAEMONS)):
        for name in names:
            suite.kill(name)
        for name in ("vfio-helper", "vmmon", "frp-supervisor", "agentd"):
            if name in names:
                suite.start(name)
        suite.wait(instance, "running")
        assert suite.vm_pids() == before, (names, suite.vm_pids(), before)
        assert suite.ssh(instance, "cat /proc/sys/kernel/random/boot_id").stdout == boot, names
        # Adopted, not only alive: each part still works on it.
        suite.add_key(instance, f"after-{names[0]}-{len(names)}")
        suite.ssh(instance, "true", key=f"after-{names[0]}-{len(names)}")


def vm_killed(suite, instance):
    """QEMU itself dies: said honestly, and a start brings the same disk back."""
    suite.ssh(instance, "echo kept >/root/kept && sync")
    suite.put(f"/v1/instances/{instance}", {"action": "restart"}).data  # so that the helper is its parent
    suite.wait(instance, "rebooting")
    suite.wait(instance, "running")
    for pid in suite.vm_pids():
        os.kill(pid, signal.SIGKILL)
    seen = suite.wait(instance, "error")
    assert "signal 9" in seen["error"], seen
    suite.put(f"/v1/instances/{instance}", {"action": "start"}).data
    suite.wait(instance, "running")
    assert suite.ssh(instance, "cat /root/kept").stdout == "kept\n"


def network_killed(suite, instance):
    """passt dies: not silently a VM without network."""
    for pid in suite.vm_pids("passt"):
        os.kill(pid, signal.SIGKILL)
    seen = suite.wait(instance, "error")
    assert seen["error"], seen
    suite.put(f"/v1/instances/{instance}", {"action": "start"}).data
    suite.wait(instance, "running")
    suite.ssh(instance, "true")


def host_reboot(suite, instance):
    """What a reboot leaves: no process, an empty /run, another boot id."""
    for name in DAEMONS:
        suite.kill(name)
    for pid in list(suite.vm_pids()) + list(suite.vm_pids("passt")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for("the VM is gone", lambda: not suite.vm_pids() and not suite.vm_pids("passt"))
    for path in (suite.root / "run/vm").iterdir():
        subprocess.run(["rm", "-rf", path], check=True)
    fake = suite.scratch / "boot_id"
    fake.write_text("11111111-2222-4333-8444-555555555555\n")
    target = "/proc/sys/kernel/random/boot_id"
    subprocess.run(["mount", "--bind", fake, target], check=True)
    try:
        for name in ("vfio-helper", "vmmon", "frp-supervisor", "agentd"):
            suite.start(name)
        seen = suite.wait(instance, "error")
        assert "reboot" in (seen["error"] + seen["detail"]).lower(), seen
        suite.put(f"/v1/instances/{instance}", {"action": "start"}).data
        suite.wait(instance, "running")
        assert suite.ssh(instance, "cat /root/kept").stdout == "kept\n"
    finally:
        subprocess.run(["umount", target], check=True)


def killed_while_deleting(suite, daemon):
    instance = suite.create()
    suite.wait(instance, "running")
    killer = threading.Timer(0.15, lambda: (suite.kill(daemon), suite.start(daemon)))
    killer.start()
    with contextlib.suppress(OSError, http.client.HTTPException):
        suite.delete(f"/v1/instances/{instance}")
    killer.join()
    again = suite.delete(f"/v1/instances/{instance}")
    assert again.status in (200, 404), again.raw  # it may be gone already
    suite.wait(instance, "destroyed")
    wait_for("no process of the VM is left", lambda: not suite.vm_pids() and not suite.vm_pids("passt"))
    assert not list((suite.root / "lib/helper/vms").glob(f"*{instance}*"))


def crash(report, suite):
    instance = None
    for daemon in ("agentd", "vfio-helper", "vmmon"):
        def one(daemon=daemon):
            nonlocal instance
            instance = killed_at_every_moment(suite, daemon)
            if daemon != "vmmon":
                suite.delete(f"/v1/instances/{instance}").data
                suite.wait(instance, "destroyed")
        if not report.run(f"crash/{daemon}_killed_at_every_moment_of_a_boot", one):
            return
    for case in (vm_killed, killed_while_running, network_killed, host_reboot):
        if not report.run(f"crash/{case.__name__}", case, suite, instance):
            return
    suite.delete(f"/v1/instances/{instance}").data
    report.run("crash/clean_end", suite.wait, instance, "destroyed")
    for daemon in ("agentd", "vfio-helper"):
        report.run(f"crash/{daemon}_killed_while_deleting", killed_while_deleting, suite, daemon)


GROUPS = {"life": life, "api": api, "boundary": boundary, "several": several, "crash": crash}
__all__ = ["GROUPS", "Suite"]
