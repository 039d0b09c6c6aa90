"""Starts the real `tidegate` and the OSS simulator for tests, and talks to both. Standard library only, plus PyYAML.

Every wait is for a condition and has a bound; every server listens on 127.0.0.1; what a server printed is kept in a
file next to its data and copied to the log folder when a test fails.
"""

import itertools
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TIDEGATE = os.environ.get("TIDEGATE_BIN", str(TARGET / "debug" / "tidegate"))
OSS_SIM = os.environ.get("OSS_SIM_BIN", str(TARGET / "debug" / "oss-sim"))
TOOLS = ROOT / ".venv" / "bin"

ACCESS_KEY = "TESTACCESSKEY0000001"
SECRET_KEY = "test/secret+key/for/loopback/only0000001"
OSS_KEY = "LTAItestaccesskey001"
OSS_SECRET = "testsecretforthesimulator00001"
OSS_BUCKET = "cold-bucket"
REGION = "us-east-1"
DAY = 86_400
# Longer than anything takes on a machine that is slow and busy: only a failing test waits for so long.
PATIENCE = 180.0


def wait_until(what, condition, timeout=PATIENCE, every=0.05):
    """Polls until `condition()` is true and returns what it gave; fails with `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout:g} s in vain for: {what}")
        time.sleep(every)


def _ports():
    """Ports that the system gives to no connection: one of its own could be taken by a client while its server is stopped."""
    first = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = range(10_000, first)
    if len(ports) < 1000:
        while True:  # this system has hardly any such
            yield 0
    start = random.SystemRandom().randrange(len(ports))
    for n in itertools.count(start):
        yield ports[n % len(ports)]


_PORTS = _ports()


def free_port():
    """A port that nobody listens on."""
    for port in _PORTS:
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return s.getsockname()[1]


def http(method, url, body=None, timeout=60):
    """(status, text) of a plain request."""
    request = urllib.request.Request(url, data=body, method=method)
    if body is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


class Process:
    """A server process whose output goes to a file and can be waited for."""

    def __init__(self, argv, log, env=None):
        self.log = pathlib.Path(log)
        self.lines = []
        self.out = open(self.log, "ab")
        self.out.write(f"\n--- {' '.join(map(str, argv))}\n".encode())
        self.popen = subprocess.Popen(
            [str(a) for a in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "RUST_BACKTRACE": "1", **(env or {})},
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.popen.stdout:
            self.lines.append(line.decode(errors="replace"))
            self.out.write(line)
            self.out.flush()

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def tail(self):
        return "".join(self.lines[-30:])

    def wait_line(self, pattern, timeout=PATIENCE):
        """The match of the first output line that fits."""
        expression = re.compile(pattern)

        def look():
            for line in list(self.lines):
                if found := expression.search(line):
                    return found
            if not self.alive():
                raise RuntimeError(f"{self.popen.args[0]} ended with {self.popen.returncode}:\n{self.tail()}")
            return None

        return wait_until(f"a line like {pattern!r} from {self.popen.args[0]}; it said:\n{self.tail()}", look, timeout)

    def kill(self):
        if self.alive():
            self.popen.kill()
        self._end(PATIENCE)

    def stop(self, timeout=PATIENCE):
        """SIGTERM; returns the exit code."""
        if self.alive():
            self.popen.send_signal(signal.SIGTERM)
        return self._end(timeout)

    def wait(self, timeout=PATIENCE):
        return self._end(timeout)

    def _end(self, timeout):
        try:
            code = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(10)
            raise TimeoutError(f"{self.popen.args[0]} did not end within {timeout} s:\n{self.tail()}") from None
        self.reader.join(10)
        self.out.close()
        return code

    def rss_mib(self, peak=True):
        """Peak (or current) resident memory in MiB, from /proc."""
        key = "VmHWM" if peak else "VmRSS"
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) / 1024
        raise RuntimeError(f"no {key} for process {self.pid}")


class OssSim:
    """The OSS simulator. Keeps its data, address and clock over `stop()` and `start()`."""

    def __init__(self, folder, bucket=OSS_BUCKET, key=OSS_KEY, secret=OSS_SECRET):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.bucket = bucket
        self.access_key = f"{key}:{secret}"
        self.address = None
        self.admin_address = None
        self.process = None

    def start(self):
        listen, admin = self.address or f"127.0.0.1:{free_port()}", self.admin_address or f"127.0.0.1:{free_port()}"
        argv = [OSS_SIM, "--listen", listen, "--admin", admin]
        argv += ["--data-dir", self.folder / "data", "--bucket", self.bucket, "--access-key", self.access_key]
        self.process = Process(argv, self.folder / "oss-sim.log")
        self.address = self.process.wait_line(r"^listening on http://(\S+)").group(1)
        self.admin_address = self.process.wait_line(r"^admin on http://(\S+)").group(1)
        return self

    @property
    def endpoint(self):
        return f"http://{self.address}"

    def admin(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        status, text = http(method, f"http://{self.admin_address}{path}", data)
        if status >= 300:
            raise RuntimeError(f"{method} {path} of the simulator's admin: {status} {text}")
        try:
            return json.loads(text) if text else None
        except json.JSONDecodeError:
            return text

    def objects(self):
        """{name: size} of everything in the bucket. By the admin page: S3 clients' clocks do not follow the virtual one."""
        states = self.admin("GET", f"/objects?bucket={self.bucket}")
        return {o["key"]: o["size"] for o in states if not o["delete_marker"]}

    def advance(self, seconds):
        self.admin("POST", "/clock/advance", {"seconds": int(seconds)})

    def stop(self):
        if self.process:
            self.process.stop()
            self.process = None

    def kill(self):
        if self.process:
            self.process.kill()
            self.process = None


class CliResult:
    """What a command of `tidegate` answered."""

    def __init__(self, done):
        self.code = done.returncode
        self.out = done.stdout
        self.err = done.stderr

    @property
    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return f"exit code {self.code}\nstdout: {self.out}\nstderr: {self.err}"


class Tidegate:
    """The real server. Keeps its port and data over `stop()`, `kill()` and `start()`."""

    def __init__(self, folder, sim=None, policy=None, binary=None, **overrides):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = self.folder / "data"
        self.socket = self.folder / "admin.sock"
        self.port = free_port()
        self.admin_port = free_port()
        self.config = self.folder / "tidegate.yaml"
        self.policy = self.folder / "policy.yaml"
        self.binary = binary or TIDEGATE
        self.sim = sim
        self.process = None
        if policy is not None:
            self.policy.write_text(policy if isinstance(policy, str) else yaml.safe_dump(policy, sort_keys=False))
        self.settings = merged(self.default_settings(policy is not None), overrides)
        self.write_config()

    def default_settings(self, has_policy):
        from settings import settings

        return settings(self, has_policy)

    def write_config(self):
        self.config.write_text(yaml.safe_dump(self.settings, sort_keys=False))
        self.config.chmod(0o600)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self):
        return f"http://127.0.0.1:{self.admin_port}"

    def start(self, *extra, wait=True, timeout=PATIENCE, command=("serve",)):
        self.process = Process([self.binary, *command, "--config", self.config, *extra], self.folder / "tidegate.log")
        if wait:
            self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout=PATIENCE):
        def ready():
            if not self.process.alive():
                code = self.process.wait()
                raise RuntimeError(f"tidegate ended with {code} instead of serving:\n{self.process.tail()}")
            try:
                return http("GET", self.admin_url + "/readyz", timeout=2)[0] == 200
            except OSError:
                return False

        wait_until("tidegate to be ready", ready, timeout)

    def stop(self, timeout=PATIENCE):
        if self.process is None:
            return None
        process, self.process = self.process, None
        return process.stop(timeout)

    def kill(self):
        """SIGKILL: nothing is flushed."""
        if self.process is not None:
            process, self.process = self.process, None
            process.kill()

    def restart(self):
        self.stop()
        return self.start()

    def cli(self, *args, json_output=False, timeout=300, check=True, with_config=True):
        """Runs a command of `tidegate`; global flags come last, where clap takes them too."""
        argv = [self.binary, *map(str, args)]
        if with_config:
            argv += ["--config", str(self.config)]
        if json_output:
            argv += ["--json"]
        env = {**os.environ, "NO_COLOR": "1"}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env=env)
        result = CliResult(done)
        if check and result.code != 0:
            raise AssertionError(f"{' '.join(argv)}: {result}")
        return result

    def advance(self, seconds):
        """Moves both clocks: the cloud first, so that no request of ours comes from its future."""
        if self.sim and self.sim.process:
            self.sim.advance(seconds)
        self.advance_own(seconds)

    def advance_own(self, seconds):
        """Moves the gateway's clock alone."""
        self.cli("clock", "advance", f"{int(seconds)}s")

    def lose_local_packs(self):
        """Deletes all local copies while stopped: what is cold must then come from the cloud."""
        self.stop()
        for file in (self.data / "packs").iterdir():
            file.unlink()
        return self.start()

    def metrics(self):
        """{name{labels}: value} of /metrics."""
        status, text = http("GET", self.admin_url + "/metrics")
        assert status == 200, text
        values = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = float(value)
        return values

    def status(self, bucket, key):
        return self.cli("object", "status", f"s3://{bucket}/{key}", json_output=True).json

    def stats(self):
        return self.cli("stats", json_output=True).json

    def client(self, **config):
        import boto3
        from botocore.config import Config

        # Without the version, presigned URLs would be of version 2.
        options = {"signature_version": "s3v4", "s3": {"addressing_style": "path"}, "retries": {"max_attempts": 1, "mode": "standard"}, **config}
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(connect_timeout=60, read_timeout=120, **options),
        )

    def client_env(self):
        """Environment for command line clients: our keys, none of the machine's settings."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RCLONE_", "RESTIC_"))}
        return {
            **clean,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
            "HOME": str(self.folder),
        }


def merged(base, over):
    """`over` laid over `base`, section by section."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def run(argv, env=None, timeout=600, check=True, cwd=None, stdin=None):
    """Runs a client program; its output is in the failure."""
    done = subprocess.run(
        [str(a) for a in argv],
        env=env,
        timeout=timeout,
        cwd=cwd,
        capture_output=True,
        text=True,
        input=stdin if stdin is not None else "",
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, argv))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def read_body(client, bucket, key, **more):
    return client.get_object(Bucket=bucket, Key=key, **more)["Body"].read()


def put_many(client, bucket, bodies, threads=8):
    """Uploads {key: bytes} over several connections."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(client.put_object, Bucket=bucket, Key=k, Body=b) for k, b in bodies.items()]
        for job in jobs:
            job.result()
