"""The vendor's own clients drive the simulator: the scripts of tests/oss-sim/clients, one test each."""

import os
import pathlib
import sys

import pytest

from harness import OssSim, ROOT, run

FOLDER = ROOT / "tests" / "oss-sim" / "clients"
SCRIPTS = sorted(p for p in FOLDER.glob("*") if p.suffix in (".py", ".js", ".cjs", ".mjs") and "common" not in p.name)


def test_there_are_scripts():
    assert SCRIPTS, f"no client scripts in {FOLDER}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_the_vendors_client_and_the_simulator_agree(script, tmp_path):
    interpreter = sys.executable if script.suffix == ".py" else node()
    env = {**os.environ, "NODE_PATH": str(ROOT / ".tools" / "node" / "node_modules")}
    sim = OssSim(tmp_path / "sim", key="ak", secret="sk").start()
    try:
        done = run([interpreter, script, sim.endpoint, f"http://{sim.admin_address}"], env=env, cwd=tmp_path, timeout=180)
    finally:
        sim.kill()
    cases = [line for line in done.stdout.splitlines() if line.startswith("ok ")]
    assert cases, done.stdout


def node():
    own = pathlib.Path(sys.executable).parent / "node"
    return str(own) if own.exists() else "node"
