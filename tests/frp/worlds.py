# SPDX-License-Identifier: Apache-2.0
"""The two worlds that the same cases run in: the stand-in, and the real frps and frpc."""
import pathlib
import shutil
import tempfile

from fakefrpc import FakeFrp
from rig import TOKEN, Frps, Source, Service, Supervisor, get


class World:
    real = False

    def __init__(self, build):
        self.build = pathlib.Path(build)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qudata-frp-world-"))
        self.folder.chmod(0o755)
        self.supervisors, self.services, self.sup = [], [], None

    def supervisor(self, frpc=None, settings=(), start=True, prefix=()):
        sup = Supervisor(self.build, frpc or self.frpc, settings, prefix)
        self.prepare(sup)
        self.supervisors.append(sup)
        self.sup = sup
        return sup.start() if start else sup

    def prepare(self, sup):
        pass

    def begin(self, settings=(), **server):
        """A supervisor that has been told of the server, and agentd's side of the conversation."""
        agent = self.supervisor(settings=settings).agent()
        agent.configure(self.port, **server)
        return agent

    def service(self, *args, **kw):
        self.services.append(Service(*args, **kw))
        return self.services[-1]

    def source(self, *args, **kw):
        self.services.append(Source(*args, **kw))
        return self.services[-1]

    def by_name(self, host, path="/", headers=None):
        """(status, JSON) of a request to the server under a host name."""
        return get(self.vhost, path, host, headers)

    def check(self):
        pass

    def logs(self):
        return "\n".join(f"--- {s.root}\n{s.log()[-4000:]}" for s in self.supervisors)

    def down(self):
        for sup in self.supervisors:
            sup.down()
        for service in self.services:
            service.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class FakeWorld(World):
    def __init__(self, build):
        super().__init__(build)
        self.frpc = self.door("0.61.2")
        self.port = 7000
        self.fake = FakeFrp(TOKEN, self.port)
        self.vhost = self.fake.vhost

    def door(self, version, name="frpc"):
        """The stand-in's program, saying that it is of that version."""
        mark = b"VERSION=0.61.2\0          "
        raw = (self.build / "tests/frp/door").read_bytes()
        assert raw.count(mark) == 1
        path = self.folder / name
        path.write_bytes(raw.replace(mark, b"VERSION=" + version.encode().ljust(len(mark) - 8, b"\0")))
        path.chmod(0o755)
        return path

    def prepare(self, sup):
        (sup.run_dir / "fake.port").write_text(str(self.fake.control_port))
        (sup.run_dir / "fake.port").chmod(0o644)

    def server(self, up):
        self.fake.server(up)

    def check(self):
        """Whatever the case was: every file that frpc was given was of the strict schema."""
        assert not self.fake.wrong or self.fake.wrong_expected, self.fake.wrong

    def down(self):
        super().down()
        self.fake.close()


class RealWorld(World):
    real = True

    def __init__(self, build, frps, frpc):
        super().__init__(build)
        self.frps_binary, self.frpc = frps, frpc
        self.frps = Frps(frps, self.folder)
        self.port, self.vhost = self.frps.port, self.frps.vhost

    def server(self, up):
        if up:
            self.frps.start()
        else:
            self.frps.end()

    def logs(self):
        return super().logs() + f"\n--- frps\n{self.frps.log()[-1500:]}"

    def down(self):
        super().down()
        self.frps.end()
