"""Fixtures of the end-to-end tests. One server serves all tests of plain S3; tests that stop, kill or age a server
start their own through `gateway`."""

import itertools
import pathlib
import random
import shutil
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from harness import OssSim, Tidegate  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--e2e-logs", default=None, help="folder that gets the servers' logs of failed tests")
    parser.addoption("--seed", type=int, default=None, help="seed of random tests; printed when not given")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes longer than about ten seconds; left out by tests/run --quick")
    config.addinivalue_line("markers", "full: large; only in tests/run --full")
    seed = config.getoption("--seed")
    config.e2e_seed = random.SystemRandom().randrange(2**32) if seed is None else seed


def pytest_report_header(config):
    return f"seed of random tests: {config.e2e_seed} (repeat with --seed {config.e2e_seed})"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    setattr(item, "report_" + report.when, report)
    if report.failed:
        logs = item.config.getoption("--e2e-logs")
        for server in getattr(item.session, "e2e_servers", []):
            for log in server.folder.glob("*.log"):
                report.sections.append((f"end of {log}", log.read_text(errors="replace")[-3000:]))
                if logs:
                    target = pathlib.Path(logs) / item.name.replace("/", "_")
                    target.mkdir(parents=True, exist_ok=True)
                    shutil.copy(log, target / f"{server.folder.name}-{log.name}")


@pytest.fixture
def rng(request):
    """Random numbers of this test: a function of the run's seed and the test's name."""
    return random.Random(f"{request.config.e2e_seed} {request.node.nodeid}")


def _track(session, server):
    if not hasattr(session, "e2e_servers"):
        session.e2e_servers = []
    session.e2e_servers.append(server)
    return server


def _end(session, server):
    server.kill()
    session.e2e_servers.remove(server)
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def sim(request, tmp_path):
    """A running OSS simulator of this test alone."""
    server = _track(request.session, OssSim(tmp_path / "sim"))
    server.start()
    yield server
    _end(request.session, server)


@pytest.fixture
def gateway(request, tmp_path):
    """Makes servers of this test alone: `gateway(sim=..., policy=..., section={...})`; not yet started."""
    made = []

    def make(**options):
        server = _track(request.session, Tidegate(tmp_path / f"gateway{len(made)}", **options))
        made.append(server)
        return server

    yield make
    for server in made:
        _end(request.session, server)


@pytest.fixture(scope="session")
def shared(request, tmp_path_factory):
    """The server that tests of plain S3 share."""
    server = _track(request.session, Tidegate(tmp_path_factory.mktemp("shared") / "gateway"))
    server.start()
    yield server
    _end(request.session, server)


@pytest.fixture(scope="session")
def s3(shared):
    return shared.client()


_numbers = itertools.count(1)


@pytest.fixture
def bucket(s3):
    """A fresh bucket on the shared server."""
    name = f"bucket-{next(_numbers):04}"
    s3.create_bucket(Bucket=name)
    return name
