"""`tidegate scrub` with the real program: rate, progress, resumption after a kill, healing and what it names."""

import subprocess

from harness import read_body, wait_until
from s3util import MIB
from settings import policy
from test_formats import flip, local_packs, packs
from test_tiering import wait_tier

BUCKET = "data"


def scrub(server, *args):
    """(exit code, report)."""
    result = server.cli("scrub", *args, json_output=True, check=False)
    return result.code, result.json


def begin(server, *args):
    argv = [server.binary, "scrub", "--config", str(server.config), *args]
    return subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def filled(gateway, rng, mib=6, **more):
    server = gateway(store={"packs": {"pack_bytes": MIB}}, **more).start()
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    body = rng.randbytes(mib * MIB)
    client.put_object(Bucket=BUCKET, Key="k", Body=body)
    return server, body


def end_of_chunk(server, body, wanted):
    """(pack file, offset of the last byte) of a stored chunk whose place in the body is as wanted."""
    for path in sorted(local_packs(server.data, ".pack")):
        pack = packs.Pack(path)
        for frame in pack.frames():
            if frame.kind == packs.CHUNK and wanted(body.find(pack.chunk(frame))):
                return path, frame.end - 1
    raise AssertionError("no such chunk")


def test_a_slow_scrub_is_killed_with_the_server_and_goes_on_where_it_was(gateway, rng):
    server, body = filled(gateway, rng, mib=20)
    running = begin(server, "--rate", "1MiB")
    # At least two packs are noted as done, and the scrub is not.
    wait_until("it has come far enough", lambda: server.stats()["scrub"]["bytes_done"] > 2 * MIB)
    stats = server.stats()["scrub"]
    assert stats["running"] and stats["bytes_done"] < stats["bytes_total"], stats
    assert 0 < server.metrics()["tidegate_scrub_position_ratio"] < 1
    assert "running since" in server.cli("stats").out
    server.kill()
    assert running.wait(180) != 0
    server.start()
    stats = server.stats()["scrub"]
    assert not stats["running"] and stats["bytes_done"] > MIB and "interrupted since" in server.cli("stats").out
    before = server.metrics()["tidegate_scrub_bytes_total"]
    code, report = scrub(server, "--rate", "0")
    assert code == 0 and report["resumed"] and report["complete"], report
    read = server.metrics()["tidegate_scrub_bytes_total"] - before
    assert read < report["bytes"] and report["bytes"] >= len(body), (read, report)
    assert server.metrics()["tidegate_scrub_last_complete_timestamp_seconds"] > 1.7e9
    code, report = scrub(server, "--restart")
    assert code == 0 and not report["resumed"] and report["bytes"] >= len(body), report


def test_a_scrub_ends_with_its_command_and_a_second_one_is_refused_meanwhile(gateway, rng):
    server, _ = filled(gateway, rng, mib=20)
    running = begin(server, "--rate", "1MiB")
    wait_until("it runs", lambda: server.stats()["scrub"]["running"])
    second = server.cli("scrub", check=False)
    assert second.code == 1 and "a scrub is running" in second.err, second
    running.terminate()
    running.wait(180)
    wait_until("it has ended", lambda: not server.stats()["scrub"]["running"])
    code, report = scrub(server, "--rate", "0")
    assert code == 0 and report["resumed"], report


def test_rot_is_named_by_key_and_kept_from_readers_or_healed_from_the_cloud(gateway, sim, rng):
    server, body = filled(gateway, rng, sim=sim, policy=policy(BUCKET, prefix="logs/"))
    client = server.client()
    client.put_object(Bucket=BUCKET, Key="logs/cold", Body=body[: 2 * MIB])
    server.advance(31 * 86_400)
    wait_tier(server, ["logs/cold"], "ia")
    server.stop()
    # The first chunk is in the cloud, the one after the middle is here only.
    ends = [end_of_chunk(server, body, wanted) for wanted in (lambda at: at == 0, lambda at: at > 3 * MIB)]
    for path, end in ends:
        flip(path, end)
    server.start()
    code, report = scrub(server)
    assert code == 3 and report["damaged_total"] == 2 and report["repaired"] == 1 and report["lost"] == 1, report
    assert [l["what"] for l in report["lossy"]] == [f"{BUCKET} / k"], report
    wait_until("the log to say so", lambda: f"{BUCKET} / k" in "".join(server.process.lines))
    text = server.cli("scrub", check=False)
    assert text.code == 3 and f"{BUCKET} / k" in text.out and "0 damaged" in text.out, text
    metrics = server.metrics()
    assert metrics["tidegate_scrub_damaged_frames_total"] == 2 and metrics["tidegate_scrub_lost_frames_total"] == 1
    assert metrics["tidegate_scrub_healed_frames_total"] == 1 and metrics["tidegate_damaged_objects"] == 1
    server.restart()
    assert read_body(server.client(), BUCKET, "logs/cold") == body[: 2 * MIB]
    try:
        found = read_body(server.client(), BUCKET, "k")
    except Exception:
        found = None
    assert found is None, "never a body with the bad frame in it"
    server.client().put_object(Bucket=BUCKET, Key="again", Body=body)
    assert read_body(server.client(), BUCKET, "k") == body
    assert scrub(server)[0] == 0


def test_the_rate_is_a_size_and_bad_ones_are_refused(gateway):
    server = gateway().start()
    for wrong in ("fast", "-1", "5MB"):
        result = server.cli("scrub", f"--rate={wrong}", check=False)
        assert result.code == 2 and "--rate" in result.err, result
    assert server.cli("scrub", "--rate", "1GiB/s").code == 0
