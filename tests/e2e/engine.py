# SPDX-License-Identifier: Apache-2.0
"""The tenant's container in a real guest: pulled from a real registry, which runs in the guest, too."""
import http.client
import json
import shutil
import subprocess
import time
import urllib.request

from lib import BOOT_S, SSH_S, wait_for

# Made in the guest: what the host's registry would hold, without a way from the guest to the host.
IMAGE = r"""
set -e
d=$(mktemp -d)
mkdir -p "$d/bin" "$d/etc/ssh" "$d/tmp" "$d/usr/sbin" "$d/usr/bin" "$d/run"
mkdir -m 700 "$d/root"
cp /bin/busybox "$d/bin/"
cp /usr/sbin/sshd "$d/usr/sbin/"
cp /usr/bin/ssh-keygen "$d/usr/bin/"
for p in $(ldd /usr/sbin/sshd /usr/bin/ssh-keygen | grep -o '/[^ :]*' | sort -u); do [ "${p#*/lib}" = "$p" ] || cp -L --parents "$p" "$d"; done
echo 'root:*:0:0:root:/root:/bin/sh
sshd:*:100:65534::/run/sshd:/bin/false' >"$d/etc/passwd"
: >"$d/etc/ssh/sshd_config"
for n in mkdir chmod sh tail cat env httpd echo sleep printf sync tr; do ln -s busybox "$d/bin/$n"; done
tar -C "$d" -c . | docker import - 127.0.0.1:5000/app/web:1
rm -rf "$d"
"""
REGISTRY = r"""
set -e
mkdir -p /root/registry
printf "version: 0.1\nstorage: {filesystem: {rootdirectory: /root/registry}}\nhttp: {addr: '127.0.0.1:5000'}\n" >/root/registry.yml
systemd-run --quiet --unit=registry /root/docker-registry serve /root/registry.yml
for i in $(seq 100); do docker push -q 127.0.0.1:5000/app/web:1 && break; sleep 1; done
docker rmi 127.0.0.1:5000/app/web:1
"""
NASTY = "a'b\"c$(id)`id`$HOME\n\tline two\\ {}|;&<>*? \u00e4\u20ac\U0001f600 end"
COMMAND = ("mkdir -p /data/www && cat /proc/self/environ >/data/www/env && echo run >>/data/www/runs && "
           "printf '[%s]\\n' \"$NASTY\" 'it is' && exec httpd -f -p 8080 -h /data/www")


class Container:
    def __init__(self, suite):
        self.s = suite
        self.id = None
        self.container = None
        self.vm_ssh = None
        self.env = {"NASTY": NASTY, "LONG": ("0123456789abcde\u00e9" * 2048)[:30000], "EMPTY": ""}

    def fetch(self, name, timeout=120):
        port = self.s.status(self.id)["ports"]["8080"]
        deadline = time.monotonic() + timeout
        while True:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=60).read()
            except (OSError, http.client.HTTPException):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def registry_that_is_away_is_told(self):
        """The guest has an engine, but nothing listens at the registry: said in words, without the password."""
        self.id = self.s.create(image="127.0.0.1:5000/app/web", image_tag="1", cpus="2", memory="1G", ports={"8080": "auto"},
                                env_variables=self.env, command=COMMAND, login="me", password="s3cret-password")
        seen = self.s.wait(self.id, "error")
        assert "127.0.0.1:5000/app/web:1" in seen["error"] and "refused" in seen["error"], seen
        assert "s3cret" not in json.dumps(seen), seen

    def runs_from_a_registry(self):
        self.s.add_key(self.id)
        known = self.s.scratch / f"known-vm-{self.id}"
        known.write_text(f"guest-{self.id} {self.s.status(self.id)['ssh']['host_key']}\n")
        self.vm_ssh = self.s.ssh_base(self.id, known=known)
        assert self.s.status(self.id)["ssh"]["in"] == "vm"
        with open(shutil.which("docker-registry"), "rb") as program:
            subprocess.run(self.s.ssh_base(self.id) + ["cat >/root/docker-registry && chmod 755 /root/docker-registry"],
                           stdin=program, check=True, timeout=2 * SSH_S)
        self.s.ssh(self.id, IMAGE, timeout=2 * SSH_S)
        self.s.ssh(self.id, REGISTRY, timeout=2 * SSH_S)
        self.s.put(f"/v1/instances/{self.id}", {"action": "start"}).data
        details = set()
        deadline = time.monotonic() + BOOT_S
        while True:
            seen = self.s.status(self.id)
            details.add(seen["detail"])
            if seen["status"] == "running":
                break
            assert time.monotonic() < deadline, (seen, details)
            time.sleep(0.05)
        assert any("image" in d or "container" in d for d in details), details
        self.container = seen["container_id"]
        assert len(self.container) == 64, seen

    def vm(self, command):
        return subprocess.run(self.vm_ssh + [command], check=True, timeout=SSH_S, stdin=subprocess.DEVNULL, capture_output=True)

    def logs_in_to_the_container(self):
        """Port 22 leads into the container, whose host key is told; the VM's own sshd keeps its port."""
        deadline = time.monotonic() + BOOT_S
        while (seen := self.s.status(self.id))["ssh"]["in"] != "container":
            assert time.monotonic() < deadline and seen["status"] == "running", seen
            time.sleep(0.2)
        assert seen["ports"]["22"] == str(seen["ssh"]["port"]) and set(seen["ports"]) == {"22", "8080"}, seen
        self.s.add_key(self.id)  # it has it; waits until the container has, too
        assert self.s.ssh(self.id, "echo $0; test -e /.dockerenv && cat /data/www/runs").stdout.startswith("sh\nrun\n")
        assert self.vm("docker ps -q").stdout.strip()

    def key_is_taken_back(self):
        self.s.remove_key(self.id)
        assert self.s.ssh(self.id, "true", check=False).returncode == 255
        self.s.add_key(self.id)
        self.s.ssh(self.id, "true")

    def port_answers(self):
        assert self.fetch("runs") == b"run\n"

    def environment_is_byte_exact(self):
        seen = self.fetch("env").split(b"\0")
        for name, value in self.env.items():
            assert f"{name}={value}".encode() in seen, name
        assert b"s3cret" not in b"".join(seen)

    def logs_return(self):
        wanted = f"[{NASTY}]\n[it is]\n"

        def all_of_it():  # the engine may still be writing it down
            logs = self.s.get(f"/v1/instances/{self.id}?logs=true").data["logs"]
            assert wanted.startswith(logs), logs
            return logs == wanted
        wait_for("the whole log", all_of_it)

    def vmmon_is_replaced_unnoticed(self):
        self.s.kill("vmmon")
        self.s.start("vmmon")
        seen = set()
        for _ in range(150):
            now = self.s.status(self.id)
            seen.add((now["status"], now["container_id"]))
            time.sleep(0.1)
        assert seen == {("running", self.container)}, seen

    def data_survives_stop_and_start(self):
        self.s.put(f"/v1/instances/{self.id}", {"action": "stop"}).data
        self.s.wait(self.id, "paused")
        self.s.put(f"/v1/instances/{self.id}", {"action": "start"}).data
        seen = self.s.wait(self.id, "running")
        assert seen["container_id"] == self.container, "the same container"
        assert self.fetch("runs").startswith(b"run\nrun\n")
        self.logs_in_to_the_container()

    def end_is_told(self):
        """A process that ends is an error with its code until the engine has started it again."""
        self.vm("docker stop -t 1 qudata")
        seen = self.s.wait(self.id, "error")
        assert "ended with exit code" in seen["error"], seen
        self.s.put(f"/v1/instances/{self.id}", {"action": "start"}).data
        self.s.wait(self.id, "running")

    def delete(self):
        self.s.delete(f"/v1/instances/{self.id}").data
        self.s.wait(self.id, "destroyed")


def engine(report, suite):
    case = Container(suite)
    for step in ("registry_that_is_away_is_told", "runs_from_a_registry", "port_answers", "environment_is_byte_exact",
                 "logs_return", "logs_in_to_the_container", "key_is_taken_back", "vmmon_is_replaced_unnoticed", "end_is_told", "data_survives_stop_and_start", "delete"):
        if not report.run(f"engine/{step}", getattr(case, step)):
            break
