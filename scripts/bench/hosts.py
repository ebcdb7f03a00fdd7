"""Several hosts out of one machine: work shared among them, one of them cut off the network and switched off.

python scripts/bench/hosts.py [--only ray-embed ray-score tune bench] [--log FILE]

A "host" has a network of its own (a namespace of Linux with one cable to a switch), its own processes, host name,
/dev/shm and temporary files; all have one name, `localhost`, as machines have whose image names them so. What they
share is the disk below the working folder, under one path. To cut one off takes its cable first, so that no host hears
that its connections are closed, and then ends all of its processes at once.

ray-embed, ray-score   a Ray cluster of two hosts; the command on one; the other is cut off while it works, or not
tune                   PostgreSQL on one host, `tune --share` on two others; one is cut off during a trial
bench                  one ledger, `bench` on two hosts; one is cut off during a draw

Results have to be the bytes of a run on this machine alone (times aside; of `tune --share`, which promises none, that
whoever asks later gets what the one who stayed got, with the budget kept to the trial). Needs Linux, root, `ip` of
iproute2, `unshare` and `nsenter` of util-linux; where they are missing one line says so. Models are tiny and random.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.bench_setups import write_world
from tests.support.faults import BENCH, snapshot
from tests.support.models import LLAMA_MODULES, build_llama, build_pool, write_lora
from tests.support.postgres import PROGRAMS, why_not

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "hush-hush-1"
ADAPTERS = 600
"""To embed: so many that a host can be cut off while it works."""
ROWS = 150
TRIALS = 40
ALONE = ("--threads", "1", "--cache", "cache")
PATIENCE = 600.0
"""Seconds that anything may take."""


def missing() -> str:
    """Return why there can be no hosts here; "" where there can."""
    if sys.platform != "linux":
        return "this needs the namespaces of Linux"
    if os.geteuid():
        return "only root may make networks; run it as root"
    if gone := [name for name in ("ip", "unshare", "nsenter", "bash") if not shutil.which(name)]:
        return f"{', '.join(gone)} not found; install iproute2 and util-linux"
    tried = subprocess.run(["unshare", "--net", "--pid", "--fork", "true"], capture_output=True, text=True, check=False)
    return f"namespaces are not allowed here ({tried.stderr.strip()})" if tried.returncode else ""


def sudo(*words: str) -> None:
    """Run a command that has to succeed."""
    subprocess.run(words, check=True)


@dataclass
class Host:
    """One host: `inside` runs a command on it."""

    name: str
    network: str
    """Name of its namespace."""
    address: str
    folder: Path
    """The disk that all share."""
    first: subprocess.Popen[bytes] | None = None
    begun: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self) -> None:
        """Begin its first process, which all others are ended with."""
        script = (
            "hostname localhost && mount -t tmpfs -o mode=1777 tmpfs /dev/shm && "
            f"mount -t tmpfs -o mode=1777 tmpfs {self.own} && ip link set lo up && "
            f"touch {self.folder}/{self.name}.up && while :; do sleep 1; done"
        )
        words = ["ip", "netns", "exec", self.network, "unshare", "--uts", "--mount", "--pid", "--fork"]
        self.first = subprocess.Popen([*words, "--mount-proc", "--kill-child=KILL", "bash", "-c", script])
        wait_for(lambda: (self.folder / f"{self.name}.up").exists(), f"host {self.name}")

    @property
    def own(self) -> Path:
        """A folder that each host has for itself."""
        return self.folder / "own"

    def inside(self, words: Sequence[str], said: str, at: str = ".", **environment: str) -> subprocess.Popen[str]:
        """Begin a command in a folder of the shared disk; what it says goes to a file of that name."""
        assert self.first
        children = Path(f"/proc/{self.first.pid}/task/{self.first.pid}/children").read_text().split()
        # --wdns, not --wd: a working folder of the mounts out here would be another disk in there
        enter = ["nsenter", "--target", children[0], "--mount", "--uts", "--net", "--pid", f"--wdns={self.folder / at}"]
        own = {"TMPDIR": str(self.own), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        own |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "RAY_worker_niceness": "0"}
        with (self.folder / f"{said}.out").open("w") as out, (self.folder / f"{said}.err").open("w") as err:
            begun = subprocess.Popen(
                [*enter, "--", *words], stdout=out, stderr=err, stdin=subprocess.DEVNULL, text=True,
                env=os.environ | own | environment,
            )  # fmt: skip
        self.begun.append(begun)
        return begun

    def cut(self) -> None:
        """Pull its cable; then end all that runs on it, which nobody hears."""
        assert self.first
        sudo("ip", "-n", self.network, "link", "set", "eth0", "down")
        self.end()

    def end(self) -> None:
        """End all that runs on it."""
        if self.first:
            self.first.send_signal(signal.SIGKILL)  # its child, the first process of the host, is killed with it
            self.first.wait()
        for one in self.begun:
            with suppress(ProcessLookupError):
                one.kill()
            one.wait()


@contextmanager
def hosts(folder: Path, names: str) -> Iterator[dict[str, Host]]:
    """Hosts of these names (a letter each) at one switch."""
    prefix = f"ma{os.getpid()}"
    made: dict[str, Host] = {}
    with ExitStack() as stack:
        sudo("ip", "netns", "add", f"{prefix}-switch")
        stack.callback(sudo, "ip", "netns", "del", f"{prefix}-switch")
        inside = ("ip", "-n", f"{prefix}-switch")
        sudo(*inside, "link", "add", "switch", "type", "bridge")
        sudo(*inside, "link", "set", "switch", "up")
        (folder / "own").mkdir(exist_ok=True)
        for number, name in enumerate(names, 1):
            host = Host(name, f"{prefix}-{name}", f"10.77.0.{number}", folder)
            (folder / f"{name}.up").unlink(missing_ok=True)
            sudo("ip", "netns", "add", host.network)
            stack.callback(sudo, "ip", "netns", "del", host.network)
            cable = ("peer", "name", "eth0", "netns", host.network)
            sudo(*inside, "link", "add", f"to-{name}", "type", "veth", *cable)
            sudo(*inside, "link", "set", f"to-{name}", "master", "switch", "up")
            sudo("ip", "-n", host.network, "addr", "add", f"{host.address}/24", "dev", "eth0")
            sudo("ip", "-n", host.network, "link", "set", "eth0", "up")
            stack.callback(host.end)
            host.start()
            made[name] = host
        yield made


def wait_for(true: Callable[[], Any], what: str, *alive: subprocess.Popen[str]) -> None:
    """Look until something is true."""
    until = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > until:
            raise SystemExit(f"{what}: nothing after {PATIENCE:g} s")
        for one in alive:
            if one.poll() is not None:
                raise SystemExit(f"{what}: ended before, with {one.returncode}")
        time.sleep(0.02)


def ended(begun: subprocess.Popen[str], folder: Path, said: str) -> None:
    """Wait for a command that has to end well."""
    code = begun.wait(timeout=PATIENCE)
    text = (folder / f"{said}.err").read_text()
    if code or "Traceback" in text:
        raise SystemExit(f"{said}: exit code {code}: {text[-2000:]}")


def ours(*words: str) -> list[str]:
    """The words of a command of this program."""
    return [sys.executable, "-m", "merge_advisor", *words]


def here(folder: Path, *words: str) -> None:
    """Run a command on this machine alone."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(ours(*words), check=True, cwd=folder, env=environment, capture_output=True)


def make_models(folder: Path) -> None:
    """The models, rows, setup and run that all checks begin with."""
    build_llama(folder / "base")
    build_pool(folder / "adapters")
    for number in range(ADAPTERS):
        write_lora(folder / "many" / f"m{number:03}", LLAMA_MODULES, seed=number)
    rows = [{"input": f"say {number} twice", "output": f"{number} {number}"} for number in range(ROWS)]
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_world(folder, **BENCH)
    here(
        folder, "plan", "--task", "examples.jsonl", "--out", "run", "--base", "base", "--pool", "adapters",
        "--strategy", "top_k", "--k", "3", "--shots", "4", "--tuning", "60", "--heldout", "60", "--lora-rank", "2",
        "--lora-epochs", "1", "--adaptation", "none", "--no-score", "--threads", "1", "--cache", "cache-plan",
    )  # fmt: skip


def compared(wanted: Path, found: Path, pattern: str) -> dict[str, Any]:
    """Whether two folders hold the same files of some names, and which are others."""
    names = {path.relative_to(place).as_posix() for place in (wanted, found) for path in place.glob(pattern)}
    told = [snapshot(place) for place in (wanted, found)]
    differ = sorted(name for name in names if told[0].get(name) != told[1].get(name))
    return {"same": bool(names) and not differ, "differ": differ}


class Checks:
    """The checks, each by its name; a result is what is printed of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ray_embed(self) -> Iterator[dict[str, Any]]:
        """`embed` of a pool by two hosts."""
        words = ("embed", "--base", "../base", "--pool", "../many", *ALONE, "--out", "deltas.npz")
        here(self.folder / "embed-alone", *words)
        for cut in (False, True):
            place = self.folder / f"embed-{cut}"
            place.mkdir()
            found = self._by_ray(words, cut, place)
            yield {"check": "ray-embed", **found, **compared(self.folder / "embed-alone", place, "*.npz")}

    def ray_score(self) -> Iterator[dict[str, Any]]:
        """`score` of a run by two hosts."""
        words = ("score", "run", "--base", "../base", "--pool", "../adapters", *ALONE)
        for name in ("alone", False, True):
            shutil.copytree(self.folder / "run", self.folder / f"score-{name}" / "run")
        here(self.folder / "score-alone", *words)
        for cut in (False, True):
            place = self.folder / f"score-{cut}"
            found = self._by_ray(words, cut, place)
            yield {"check": "ray-score", **found, **compared(self.folder / "score-alone", place, "run/**/*")}

    def _by_ray(self, words: Sequence[str], cut: bool, place: Path) -> dict[str, Any]:
        """A command on host a, with workers on a and b; b is cut off once something came back and its actor lives."""
        with hosts(self.folder, "ab") as made:
            head, other = made["a"], made["b"]
            ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]
            ray += ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
            common = [f"--temp-dir={head.own}/ray", f"--node-ip-address={head.address}", "--include-dashboard=false"]
            head.inside([*ray, "--head", "--port=6379", *common], "ray-a")
            up, up_too = (self.folder / f"ray-{name}.out" for name in "ab")
            wait_for(lambda: "Ray runtime started" in up.read_text(), "the head", *head.begun)
            other.inside([*ray, f"--address={head.address}:6379", f"--node-ip-address={other.address}"], "ray-b")
            wait_for(lambda: "Ray runtime started" in up_too.read_text(), "the other node", *other.begun)
            began = time.monotonic()
            engine = ("--engine", "ray", "--workers", "2")
            command = head.inside(ours(*words, *engine), "by-ray", place.name, RAY_ADDRESS=f"{head.address}:6379")
            wait_for(lambda: actors(other), "an actor on the other host", command)
            lived = actors(other)
            if cut:
                wait_for(lambda: kept(place / "cache" / "store.sqlite"), "something that came back", command)
                other.cut()
            when = time.monotonic()
            ended(command, self.folder, "by-ray")
            over = time.monotonic()
        return {
            "cut": cut, "actors_on_other": lived, "seconds": round(over - began, 1),
            "seconds_after_cut": round(over - when, 1) if cut else None,
        }  # fmt: skip

    def tune(self) -> Iterator[dict[str, Any]]:
        """`tune --share` by two hosts with a server on a third; later a fourth asks."""
        if reason := why_not():
            yield {"check": "tune", "skipped": reason}
            return
        with hosts(self.folder, "dabc") as made:
            server = made["d"]
            url = self._database(server)
            began, processes = time.monotonic(), {}
            for name in "ab":
                shutil.copytree(self.folder / "run", self.folder / f"run-{name}")
                processes[name] = self._tune(made[name], url)
            owned = (
                "SELECT count(*) FILTER (WHERE t.state = 'RUNNING'), count(*) FILTER (WHERE t.state != 'RUNNING') "
                "FROM trials t JOIN trial_user_attributes o USING (trial_id) WHERE o.key = 'owner' "
                "AND o.value_json LIKE '%{0}%'"
            )

            def both_work() -> bool:
                found = {name: self._asked(server, owned.format(spaces(made[name]))) for name in "ab"}
                return found["a"].startswith("1|") and min(int(text.split("|")[1]) for text in found.values()) >= 2

            wait_for(both_work, "trials of both hosts", *processes.values())
            made["a"].cut()
            when = time.monotonic()
            ended(processes["b"], self.folder, "tune-b")
            over = time.monotonic()
            states = dict(
                line.split("|") for line in self._asked(server, "SELECT state, count(*) FROM trials GROUP BY 1").split()
            )
            shutil.copytree(self.folder / "run", self.folder / "run-c")
            ended(self._tune(made["c"], url), self.folder, "tune-c")
        stayed, later = ((self.folder / f"run-{host}" / "recipe.json").read_bytes() for host in "bc")
        done = int(states.get("COMPLETE", 0)) + int(states.get("PRUNED", 0))
        yield {
            "check": "tune", "cut": True, "seconds": round(over - began, 1), "seconds_after_cut": round(over - when, 1),
            "trials": states, "same": stayed == later and done == TRIALS and "RUNNING" not in states,
        }  # fmt: skip

    def _tune(self, host: Host, url: str) -> subprocess.Popen[str]:
        words = ("tune", f"run-{host.name}", "--share", "--storage", url, "--trials", str(TRIALS), "--sampler", "tpe")
        more = ("--no-score", "--offline", "--threads", "1", "--base", "base", "--pool", "adapters")
        return host.inside(ours(*words, *more, "--cache", f"cache-tune-{host.name}"), f"tune-{host.name}")

    def _database(self, server: Host) -> str:
        data = server.own / "pg"
        (self.folder / "password").write_text(PASSWORD)
        script = (
            f"initdb -D {data} -U ada --auth=scram-sha-256 --pwfile={self.folder}/password -N && "
            f"echo 'host all all 10.77.0.0/24 scram-sha-256' >> {data}/pg_hba.conf && "
            f"pg_ctl -D {data} -w -l {server.own}/log -o '-h {server.address} -k {server.own}' start && "
            f"createdb -h {server.address} -U ada studies"
        )
        as_other = ["runuser", "-u", "postgres", "--", "env", f"PATH={PROGRAMS}:{os.environ['PATH']}"]
        begun = server.inside([*as_other, "bash", "-c", script], "postgres", PGPASSWORD=PASSWORD)
        ended(begun, self.folder, "postgres")
        driver = "psycopg" if find_spec("psycopg") else "psycopg2"
        return f"postgresql+{driver}://ada:{PASSWORD}@{server.address}/studies"

    def _asked(self, server: Host, sql: str) -> str:
        """What the server answers; "0|0" before there are tables."""
        words = [str(PROGRAMS / "psql"), "-h", server.address, "-U", "ada", "-At", "studies", "-c", sql]
        asked = server.inside(words, "asked", PGPASSWORD=PASSWORD)
        code = asked.wait(timeout=PATIENCE)
        server.begun.remove(asked)
        return "0|0" if code else (self.folder / "asked.out").read_text().strip()

    def bench(self) -> Iterator[dict[str, Any]]:
        """`bench` by two hosts into one folder."""
        words = ("bench", "../setup.yaml", "--base", "../base", "--pool", "../adapters", "--threads", "1", "--out")
        here(self.folder / "bench-alone", *words, "results", "--cache", "cache")
        place = self.folder / "bench-shared"
        place.mkdir()
        ledger = place / "results" / "results.sqlite"
        with hosts(self.folder, "ab") as made:
            began = time.monotonic()
            processes = {
                name: host.inside(ours(*words, "results", "--cache", name), f"bench-{name}", place.name)
                for name, host in made.items()
            }
            wait_for(lambda: len(claimants(ledger)) == 2, "draws of both hosts", *processes.values())
            made["a"].cut()
            when = time.monotonic()
            left = len(claimants(ledger))
            ended(processes["b"], self.folder, "bench-b")
            over = time.monotonic()
        yield {
            "check": "bench", "cut": True, "claims_at_cut": left, "seconds": round(over - began, 1),
            "seconds_after_cut": round(over - when, 1),
            **compared(self.folder / "bench-alone", place, "results/*"),
        }  # fmt: skip


def spaces(host: Host) -> str:
    """What names a host's processes in the name of an owner."""
    assert host.first
    child = Path(f"/proc/{host.first.pid}/task/{host.first.pid}/children").read_text().split()[0]
    return str(Path(f"/proc/{child}/ns/pid").readlink())


def actors(host: Host) -> int:
    """How many actors of Ray live on a host."""
    wanted, found = spaces(host), 0
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            named = (path / "cmdline").read_bytes().startswith(b"ray::ActorHost")
            found += named and str((path / "ns" / "pid").readlink()) == wanted
    return found


def kept(store: Path) -> int:
    """How many deltas and measurements are in a store."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as file:
        return int(file.execute("SELECT (SELECT count(*) FROM deltas) + (SELECT count(*) FROM measured)").fetchone()[0])
    return 0


def claimants(ledger: Path) -> set[str]:
    """Who holds draws of a benchmark."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as file:
        return {str(owner) for (owner,) in file.execute("SELECT owner FROM claims")}
    return set()


def main() -> None:
    """Check."""
    names = ("ray-embed", "ray-score", "tune", "bench")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--log", type=Path, help="file that the lines are added to as well")
    asked = parser.parse_args()
    if reason := missing():
        print(f"skipped: {reason}")
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # hosts end with their script
    wrong = False
    # not below /dev/shm, which every host has for itself; a short path, since a socket's name has 107 bytes
    with tempfile.TemporaryDirectory(prefix="hosts-", dir="/var/tmp") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # of the server, which another user runs
        make_models(folder)
        checks = Checks(folder)
        for name in asked.only:
            if name.startswith("ray") and find_spec("ray") is None:
                print(json.dumps({"check": name, "skipped": "the package ray is not installed (extra `ray`)"}))
                continue
            for found in getattr(checks, name.replace("-", "_"))():
                wrong |= not found.get("same", True)
                print(json.dumps(found), flush=True)
                if asked.log:
                    with asked.log.open("a") as log:
                        log.write(json.dumps(found) + "\n")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
