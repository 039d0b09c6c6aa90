"""What an operator meets: terminals, broken policies, a second server, programs that read what `serve` says."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios

import pytest

from harness import TIDEGATE, http, run, wait_until
from settings import policy

BUCKET = "data"


def on_terminal(argv, rows, columns):
    """What a command prints on a terminal of this size; 0 and 0 is one that does not tell."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen([str(a) for a in argv], stdin=side, stdout=side, stderr=subprocess.DEVNULL, close_fds=True)
    os.close(side)
    text = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError:  # Linux: the other side was closed
            break
        if not piece:
            break
        text += piece
    os.close(main)
    assert process.wait(180) == 0
    return text.decode()


@pytest.mark.parametrize("size", [(0, 0), (24, 20), (24, 200)], ids=str)
def test_tables_can_be_read_on_every_terminal(gateway, tmp_path, size):
    server = gateway(tiers={"nas": {"type": "directory", "path": str(tmp_path / "nas")}}).start()
    text = on_terminal([TIDEGATE, "tier", "list", "--config", server.config], *size)
    assert "│" in text and "directory" in text and "target" in text, text


def test_a_broken_policy_changes_nothing_and_says_where_and_why(gateway, sim):
    server = gateway(sim=sim, policy=policy(BUCKET)).start()
    good = server.policy.read_text()
    assert server.metrics()["tidegate_policy_last_reload_timestamp_seconds"] > 1_700_000_000
    server.policy.write_text(good.replace("30d", "0d"))
    result = server.cli("policy", "reload", check=False)
    assert result.code == 3 and "policy.yaml:" in result.err and "help:" in result.err, result
    server.process.popen.send_signal(signal.SIGHUP)
    failed = 'tidegate_policy_reloads_total{result="failed"}'
    wait_until("the signal to be heard", lambda: server.metrics()[failed] == 2)
    assert server.metrics()["tidegate_policy_last_reload_successful"] == 0
    status, text = http("GET", server.admin_url + "/readyz")
    assert status == 200 and "is zero" in json.loads(text)["warnings"][0]
    assert server.cli("policy", "show", json_output=True).json["text"] == good
    server.policy.unlink()
    assert server.cli("policy", "reload", check=False).code == 3
    server.policy.write_text(good.replace("30d", "31d"))
    server.process.popen.send_signal(signal.SIGHUP)
    wait_until("the policy to be mended", lambda: "31d" in server.cli("policy", "show").out)
    assert json.loads(http("GET", server.admin_url + "/readyz")[1])["warnings"] == []


def test_a_reload_without_a_policy_is_heard(gateway):
    server = gateway().start()
    server.process.popen.send_signal(signal.SIGHUP)
    server.process.wait_line("the configuration names none")
    assert server.process.alive()


def test_a_second_server_says_who_serves_the_data(gateway):
    server = gateway().start()
    pid = f"process {server.process.pid} "
    second = run([TIDEGATE, "serve", "--config", server.config], check=False)
    assert second.returncode == 1 and pid in second.stderr, second
    other = gateway(data_dir=str(server.data))
    third = run([TIDEGATE, "serve", "--config", other.config], check=False)
    assert third.returncode == 1 and pid in third.stderr and "in use" in third.stderr, third
    rebuild = server.cli("index", "rebuild", check=False)
    assert rebuild.code == 1 and pid in rebuild.err, rebuild
    assert server.cli("stats", json_output=True).json["objects"] == 0
    assert server.stop() == 0


def test_serve_speaks_to_programs(gateway):
    server = gateway(s3={"access_keys": []})
    server.start("--json")
    said = wait_until("two lines", lambda: [line for line in server.process.lines if line.startswith("{")][1:] and server.process.lines)
    lines = [json.loads(line) for line in said if line.startswith("{")]
    stored = json.loads((server.data / "access-key.json").read_text())
    assert lines[0] == {**stored, "file": str(server.data / "access-key.json")}
    assert lines[1]["s3"] == server.endpoint and lines[1]["pid"] == server.process.pid


def test_the_price_book_of_the_configuration_is_what_a_plan_counts_with(gateway, sim):
    server = gateway(sim=sim, policy=policy(BUCKET), prices={"currency": "USD", "ia": {"put": 10_000}}).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="k", Body=b"x" * 1000)
    cost = server.cli("policy", "plan", "--horizon", "31d", json_output=True).json["cost"]
    assert (cost["currency"], cost["requests"]) == ("USD", 1.0)
    assert "1.0000 USD for requests" in server.cli("policy", "plan", "--horizon", "31d").out


def test_a_data_directory_on_the_command_line_outranks_the_environment(gateway, tmp_path):
    server = gateway().start()
    env = {"TIDEGATE_CONFIG": str(server.config)}
    assert "buckets" in run([TIDEGATE, "stats"], env=env).stdout
    elsewhere = run([TIDEGATE, "stats", "--data-dir", tmp_path], env=env, check=False)
    assert elsewhere.returncode == 4 and str(tmp_path) in elsewhere.stderr, elsewhere
