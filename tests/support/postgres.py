"""A PostgreSQL server of this machine, where its programs are installed: begun in a folder of its own, and ended."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAMS = next(
    (folder for folder in [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
     if (folder / "initdb").exists()),
    Path(shutil.which("initdb") or "initdb").parent,
)  # fmt: skip


def why_not() -> str:
    """Why no server can be begun; "" where one can."""
    if not (PROGRAMS / "initdb").exists() or not (PROGRAMS / "pg_ctl").exists():
        return "PostgreSQL's initdb and pg_ctl are not installed"
    if os.geteuid() == 0 and not (shutil.which("runuser") and user_exists("postgres")):
        return "PostgreSQL does not run as root, and there is no user postgres to run it as"
    if not (find_spec("psycopg") or find_spec("psycopg2")):
        return "no driver of PostgreSQL is installed (extra `postgresql`)"
    return ""


def user_exists(name: str) -> bool:
    import pwd

    return any(entry.pw_name == name for entry in pwd.getpwall())


needs_postgres = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be begun")


@dataclass(frozen=True)
class Server:
    port: int
    password: str

    def database(self, name: str) -> str:
        """A new database, as the URL of an Optuna storage."""
        run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "ada", name, PGPASSWORD=self.password)
        driver = "psycopg" if find_spec("psycopg") else "psycopg2"
        return f"postgresql+{driver}://ada:{self.password}@127.0.0.1:{self.port}/{name}"


def run(program: str, *words: str, **environment: str) -> None:
    as_other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    subprocess.run(
        [*as_other, str(PROGRAMS / program), *words], check=True, stdout=subprocess.DEVNULL, cwd="/",
        env=os.environ | environment,
    )  # fmt: skip


@contextmanager
def postgres_server() -> Iterator[Server]:
    # not in pytest's folder, which another user may not enter; a short path, since a socket's name has 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        password = "hush-hush-1"
        (folder / "password").write_text(password)
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        data = folder / "data"
        run("initdb", "-D", str(data), "-U", "ada", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "-N")
        options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
        run("pg_ctl", "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield Server(port, password)
        finally:
            run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
