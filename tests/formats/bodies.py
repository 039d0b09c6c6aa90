"""Bodies as files, and what is known of them as JSON: DIR/BUCKET/VERSION and DIR/objects.jsonl, an object a line."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

from records import Object

Read = Callable[[Object, Callable[[bytes], object]], list[str]]


def described(bucket: str, key: str, record: Object) -> dict[str, Any]:
    """The record as JSON takes it; without the list of chunks."""
    fields = dataclasses.asdict(record)
    del fields["body"]
    manifest = record.manifest and record.manifest.hex()
    version, nodes = f"{record.version:032x}", len(record.body.nodes)
    return {"bucket": bucket, "key": key, **fields, "version": version, "manifest": manifest, "nodes": nodes}


def extract_all(
    objects: dict[tuple[str, ...], Object], read: Read, to: pathlib.Path
) -> dict[tuple[str, ...], list[str]]:
    """Names are bucket and key, and the version where it is not the visible one. Writes every body that `read` gives in good order, and the list; returns what is wrong with each object."""
    wrong, lines = {}, []
    for name, record in objects.items():
        bucket, key = name[:2]
        file = pathlib.Path(bucket) / f"{record.version:032x}"
        (to / bucket).mkdir(parents=True, exist_ok=True)
        with open(to / file, "wb") as out:
            found = read(record, out.write)
        lines.append({**described(bucket, key, record), "file": None if found else str(file)})
        if found:
            (to / file).unlink()
        wrong[name] = found
    text = "".join(json.dumps(line, ensure_ascii=False, default=bytes.hex) + "\n" for line in lines)
    (to / "objects.jsonl").write_text(text)
    return wrong
