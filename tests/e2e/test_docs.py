"""What the documents tell people to type works. A fenced block runs when the line before it is `<!-- run -->`."""

import os
import re

import pytest

from harness import ROOT, TIDEGATE, TOOLS, OssSim, Tidegate, run
from settings import policy

MARKED = re.compile(r"<!-- run -->\n```(?:console|sh|bash)\n(.*?)```", re.S)
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)(?:#[^)]*)?\)")


def documents():
    return [p for p in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))] if p.exists()]


def blocks():
    """(name, commands) of every marked block. With prompts (`$ `) only the prompted lines are commands."""
    found = []
    for file in documents():
        for number, text in enumerate(MARKED.findall(file.read_text()), 1):
            lines = text.splitlines()
            if any(line.startswith("$ ") for line in lines):
                lines = [line[2:] for line in lines if line.startswith("$ ")]
            found.append(pytest.param("\n".join(lines), id=f"{file.relative_to(ROOT)}-{number}"))
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A running gateway with a bucket `data`, and an environment in which `tidegate` and `aws` just work."""
    folder = tmp_path_factory.mktemp("docs")
    sim = OssSim(folder / "sim").start()
    server = Tidegate(folder / "gateway", sim=sim, policy=policy("data")).start()
    server.client().create_bucket(Bucket="data")
    server.client().put_object(Bucket="data", Key="report.csv", Body=b"a,b\n1,2\n")
    path = f"{os.path.dirname(TIDEGATE)}:{TOOLS}:{os.environ['PATH']}"
    yield {
        **server.client_env(),
        "PATH": path,
        "TIDEGATE_CONFIG": str(server.config),
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ENDPOINT_URL_S3": server.endpoint,
    }
    server.kill()
    sim.kill()


@pytest.mark.parametrize("commands", blocks())
def test_the_marked_commands_work(world, tmp_path, commands):
    for name in ("policies", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    run(["bash", "-euo", "pipefail", "-c", commands], env=world, cwd=tmp_path)


@pytest.mark.parametrize("file", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(file):
    broken = [
        link
        for link in LINK.findall(file.read_text())
        if not re.match(r"[a-z]+:", link) and not (file.parent / link).exists()
    ]
    assert not broken, f"{file}: {broken}"
