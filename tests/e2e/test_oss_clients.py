"""The vendor's own clients drive the simulator: the scripts of tests/oss-sim/clients, one test each."""

import os
import pathlib
import sys

import pytest

from harness import OSS_BUCKET, OSS_KEY, OSS_SECRET, ROOT, run

FOLDER = ROOT / "tests" / "oss-sim" / "clients"
SCRIPTS = sorted(p for p in FOLDER.glob("*") if p.suffix in (".py", ".js", ".cjs", ".mjs") and not p.name.startswith("_"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_the_vendors_client_and_the_simulator_agree(sim, script, tmp_path):
    interpreter = sys.executable if script.suffix == ".py" else node()
    env = {
        **os.environ,
        "NODE_PATH": str(ROOT / ".tools" / "node" / "node_modules"),
        "OSS_ENDPOINT": sim.endpoint,
        "OSS_ADMIN": f"http://{sim.admin_address}",
        "OSS_BUCKET": OSS_BUCKET,
        "OSS_ACCESS_KEY_ID": OSS_KEY,
        "OSS_ACCESS_KEY_SECRET": OSS_SECRET,
        "OSS_REGION": "cn-hangzhou",
    }
    run([interpreter, script], env=env, cwd=tmp_path, timeout=180)


def node():
    own = pathlib.Path(sys.executable).parent / "node"
    return str(own) if own.exists() else "node"
