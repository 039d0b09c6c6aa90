"""Reads a stopped server's store by docs/formats.md alone: no code of Tidegate is used.

    read_store.py DATA                              verifies what names need, prints a summary
    read_store.py DATA --tier NAME=FOLDER           what tier NAME holds under its prefix; may be given again
    read_store.py DATA --extract DIR                also writes bodies to DIR/BUCKET/VERSION, and DIR/objects.jsonl,
                                                    one JSON object a line: names, attributes, and the file of the body

Exit code 1 when something is damaged or missing; each finding names the file and the offset, or the object. The unfinished end
that a crash left is reported, and is no damage.
"""

import argparse
import pathlib
import sys

from bodies import extract_all
from damage import Damage
from store import Store


def read_all(store: Store, extract: pathlib.Path | None) -> list[str]:
    """Reads every object and every part; returns what is wrong, a line each."""
    objects = store.names.bodies()
    if extract:
        found = extract_all(objects, store.extract, extract)
    else:
        found = {name: store.extract(record, lambda _: None) for name, record in objects.items()}
    wrong = []
    for (bucket, key, *version), lines in found.items():
        tier = objects[bucket, key, *version].residency.tier
        where = "".join(f" (version {v})" for v in version) + (f" (in tier {tier})" if tier else "")
        wrong += [f"s3://{bucket}/{key}{where}: {what}" for what in lines]
    for (upload, number), part in store.names.parts.items():
        wrong += [f"upload {upload}, part {number}: {what}" for what in store.check_part(part)]
    return wrong


def summary(store: Store) -> str:
    names, state, counts = store.names, store.state, store.counts
    origin = f"snapshot at record {state.snapshot.start}, then the journal" if state.snapshot else "the journal"
    return (
        f"deployment {store.deployment}, record {state.seq} of epoch {state.epoch}, by {origin}\n"
        f"{len(names.buckets)} buckets, {len(names.objects)} objects, {len(names.versions)} other versions, {len(names.uploads)} uploads "
        f"with {len(names.parts)} parts, {len(names.remote)} packs in tiers, {len(names.jobs)} restores, "
        f"{len(names.due)} due entries\n"
        f"read from {len(store.chunks.packs)} packs: {counts.objects} objects and {counts.parts} parts, {counts.bytes} bytes; "
        f"{counts.unreadable} could not be read, {len(store.damage)} places are damaged"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path, metavar="DATA")
    parser.add_argument("--tier", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--extract", type=pathlib.Path, metavar="DIR")
    args = parser.parse_args()
    tiers = {}
    for tier in args.tier:
        name, given, folder = tier.partition("=")
        if not given:
            parser.error(f"--tier takes NAME=FOLDER, not {tier!r}")
        tiers[name] = pathlib.Path(folder)
    if args.extract:
        args.extract.mkdir(parents=True, exist_ok=True)
    try:
        store = Store(args.data, tiers)
        wrong = read_all(store, args.extract)
    except Damage as damage:
        print(f"damaged: {damage}", file=sys.stderr)
        return 1
    for note in store.notes:
        print(note)
    for line in [*(f"damaged: {damage}" for damage in store.damage), *wrong]:
        print(line, file=sys.stderr)
    print(summary(store))
    return 1 if store.damage or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
