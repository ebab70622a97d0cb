# SPDX-License-Identifier: Apache-2.0
"""A cloud image as distributions publish them: imported, booted by firmware, prepared by nothing but the seed."""
import json
import pathlib
import subprocess
import sys
import tempfile
import time

from lib import TOP

sys.path.insert(0, str(TOP / "tests/image"))
from server import Server  # noqa: E402  pylint: disable=wrong-import-position

BOOT_S = 600  # GRUB, an initrd and the four stages of cloud-init, emulated
SETTINGS = (f"agentd.conf:boot_timeout_s={BOOT_S}", "agentd.conf:stop_grace_s=300")
IMAGE = "cloud"


def prepare(cache, build):
    """Builds the cloud image unless it is cached, and takes it in as an operator does: by HTTPS, with its checksum."""
    made, images = cache / "cloud", cache / "cloud/images"
    subprocess.run([TOP / "tests/image/mkcloud", "--output", made], check=True, stdout=sys.stderr)
    images.mkdir(mode=0o755, exist_ok=True)
    disk = next(made.glob("debian-*.qcow2"))
    with tempfile.TemporaryDirectory() as place:
        server = Server(pathlib.Path(place))
        for path in (disk, made / "SHA512SUMS"):
            (server.files / path.name).symlink_to(path)
        try:
            subprocess.run([build / "ctl/qudatactl", "image", "import", IMAGE, "--from", f"{server.url}/plain/{disk.name}",
                            "--checksums", f"{server.url}/plain/SHA512SUMS", "--cacert", server.cacert, "--force",
                            "--images-dir", images], check=True, stdout=sys.stderr)
        finally:
            server.close()
    return images


class Cloud:
    def __init__(self, suite):
        self.s = suite
        self.id = None
        self.host_key = None

    def ctl(self, *args, **kwargs):
        return subprocess.run([self.s.build / "ctl/qudatactl", "--socket", self.s.ctl_socket, *args], check=True, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=BOOT_S + 60, **kwargs).stdout

    def guest(self, command):
        return self.ctl("ssh", self.id, "--", "-i", str(self.s.key()[0]), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", command)

    def is_listed_as_it_is(self):
        listed = json.loads(self.ctl("image", "list", "--json", "--images-dir", str(self.s.images)))
        assert [(i["name"], i["boot"], i["checksums"]) for i in listed] == [(IMAGE, "firmware", "recorded")], listed
        self.ctl("image", "verify", IMAGE, "--images-dir", str(self.s.images))

    def becomes_running(self):
        """The line on the ready port, which only what the seed brought can have written."""
        made = json.loads(self.ctl("create", "--json", "--cpus", "2", "--memory", "1G", "--disk", "6G", "--ssh-key",
                                   f"{self.s.key()[0]}.pub", "--no-wait"))
        self.id = made["instance_id"]
        seen = self.s.wait(self.id, "running", timeout=BOOT_S + 60)
        self.host_key = seen["ssh"]["host_key"]
        self.s.add_key(self.id)  # it is on its way; waits until it is there

    def logs_in_with_the_pinned_key(self):
        assert self.guest("id -un; hostname").split() == ["root", self.id]
        said = self.guest("cat /etc/qudata/ssh_host_ed25519_key.pub").split()
        assert said[:2] == self.host_key.split()[:2], said

    def sshd_is_as_the_seed_says(self):
        now = set(self.guest("sshd -T").splitlines())
        assert {"passwordauthentication no", "kbdinteractiveauthentication no",
                "hostkey /etc/qudata/ssh_host_ed25519_key"} <= now, now
        assert sum(line.startswith("hostkey ") for line in now) == 1, now

    def firmware_and_grub_booted_it(self):
        out = self.guest("test -d /sys/firmware/efi && cat /proc/cmdline")
        assert "BOOT_IMAGE=/boot/vmlinuz-" in out and "console=ttyS0" in out, out
        assert "Linux version" in self.s.console(self.id)

    def cloud_init_ended_well(self):
        """All its stages, from our disk, without a complaint about anything in it."""
        self.guest("cloud-init status --wait >/dev/null")
        result = json.loads(self.guest("cat /run/cloud-init/result.json"))["v1"]
        assert result["errors"] == [] and "NoCloud" in result["datasource"] and "/dev/vd" in result["datasource"], result
        assert "WARNING" not in (log := self.guest("grep -F WARNING /var/log/cloud-init.log || true")), log
        assert "passed" in (schema := self.guest("cloud-init schema --system 2>&1 || true")) or "Valid" in schema, schema

    def root_has_grown_to_the_disk(self):
        blocks = int(self.guest("df -B1 --output=size / | tail -n 1"))
        assert 5.5 * 2**30 < blocks <= 6 * 2**30, blocks

    def silence_of_a_minute_is_unhealthy(self):
        """Every sshd in the guest stands still for a while, and with them the stream of figures; the status stays."""
        self.until_health("healthy")
        self.guest("setsid sh -c 'each() { for d in /proc/[0-9]*; do [ \"$(cat $d/comm)\" != sshd ] || kill -$1 ${d#/proc/}; done; }; "
                   "sleep 10; each STOP; sleep 130; each CONT' >/dev/null 2>&1 </dev/null &")
        begun = time.monotonic()
        seen = self.until_health("unhealthy")
        assert time.monotonic() - begun > 50 and seen["status"] == "running" and "no figures" in seen["health_detail"], seen
        assert self.until_health("healthy")["status"] == "running"

    def until_health(self, health):
        deadline = time.monotonic() + 400
        while (seen := self.s.status(self.id))["health"] != health:
            assert time.monotonic() < deadline, seen
            time.sleep(0.5)
        return seen

    def keys_are_added_and_taken_back(self):
        self.s.add_key(self.id, "second")
        self.s.ssh(self.id, "echo kept >/root/kept; sync", key="second")
        self.s.remove_key(self.id, "second")
        assert self.s.ssh(self.id, "true", key="second", check=False).returncode == 255
        assert self.guest("echo in") == "in\n"

    def stops_by_its_power_button(self):
        self.ctl("stop", self.id, "--wait", "--timeout", "6m")
        seen = self.s.status(self.id)
        assert seen["status"] == "paused" and seen["error"] == "", seen
        assert "reboot: Power down" in self.s.console(self.id), self.s.console(self.id)[-800:]

    def starts_again_as_the_same(self):
        self.ctl("start", self.id)
        seen = self.s.wait(self.id, "running", timeout=BOOT_S + 60)
        assert seen["ssh"]["host_key"] == self.host_key, seen
        assert self.guest("cat /root/kept; hostname").split() == ["kept", self.id]
        assert self.s.ssh(self.id, "true", key="second", check=False).returncode == 255

    def delete(self):
        self.ctl("delete", self.id, "--yes", "--wait")
        assert not self.s.vm_pids()


def cloud(report, suite):
    case = Cloud(suite)
    for step in ("is_listed_as_it_is", "becomes_running", "logs_in_with_the_pinned_key", "sshd_is_as_the_seed_says",
                 "firmware_and_grub_booted_it", "cloud_init_ended_well", "root_has_grown_to_the_disk", "silence_of_a_minute_is_unhealthy",
                 "keys_are_added_and_taken_back", "stops_by_its_power_button", "starts_again_as_the_same", "delete"):
        if not report.run(f"cloud/{step}", getattr(case, step)):
            break
