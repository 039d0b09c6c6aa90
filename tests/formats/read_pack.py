"""Lists, verifies and extracts what is in packs, by docs/formats.md alone: no code of Tidegate is used.

    read_pack.py PACK...                verifies each pack, lists its frames; of a folder, all packs below it
    read_pack.py --extract DIR PACK...  also writes every object that the packs tell of to DIR/BUCKET/VERSION, and
                                        DIR/objects.jsonl, one JSON object a line: names, attributes, the file of the body
    read_pack.py --chunks DIR PACK...   also writes each good chunk to DIR/CHUNK-ID (nodes to CHUNK-ID.node, manifests to
                                        CHUNK-ID.manifests)

Packs of a tier are enough for --extract: no journal, no server. Each body is verified by length, ETag and checksum. What was deleted
after it was moved is told of as well.

Exit code 1 when something is damaged or missing; each finding names the file and the offset, or the object. The unfinished end of a
pack that was never sealed is reported, and is no damage.
"""

import argparse
import datetime
import pathlib
import sys

from bodies import extract_all
from damage import Damage
from manifests import Manifests
from packs import CHUNK, CODECS, KINDS, NeverWritten, Pack


def show(pack: Pack, quiet: bool, chunks: pathlib.Path | None) -> list[Damage]:
    scan = pack.verify()
    created = datetime.datetime.fromtimestamp(pack.created / 1000, datetime.UTC)
    state = "sealed" if pack.sealed else "unsealed"
    stored, raw = (sum(getattr(frame, field) for frame in scan.frames) for field in ("stored_length", "raw_length"))
    print(
        f"{pack.path}: pack {pack.id.hex()}, {pack.kind}, {state}, created {created:%Y-%m-%dT%H:%M:%SZ}, "
        f"{len(scan.frames)} good frames, {stored} bytes stored, {raw} raw"
    )
    for frame in scan.frames:
        kind, codec = KINDS[frame.kind], CODECS[frame.codec]
        if not quiet:
            print(
                f"{frame.offset:>10} {kind} {codec:>4} {frame.stored_length:>8} {frame.raw_length:>8} {frame.id.hex()}"
            )
        if chunks:
            name = frame.id.hex() + ("" if frame.kind == CHUNK else f".{kind}")
            (chunks / name).write_bytes(pack.chunk(frame))
    if scan.torn:
        print(f"torn end, {pack.size - scan.torn.offset} bytes: {scan.torn}")
    return scan.damage


def extract(paths: list[pathlib.Path], to: pathlib.Path) -> list[str]:
    """Writes every object that the packs tell of; returns what is wrong, a line each."""
    manifests = Manifests(paths)
    wrong = extract_all(manifests.bodies(), manifests.extract, to)
    lines = [f"s3://{bucket}/{key}: {what}" for (bucket, key), found in wrong.items() for what in found]
    good = sum(not found for found in wrong.values())
    print(
        f"{len(manifests.buckets)} buckets, {good} of {len(wrong)} objects extracted, "
        f"{manifests.older} older versions left out"
    )
    return [*(f"damaged: {damage}" for damage in manifests.damage), *lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="+", type=pathlib.Path, metavar="PACK")
    parser.add_argument("--extract", type=pathlib.Path, metavar="DIR", help="folder that gets the objects")
    parser.add_argument("--chunks", type=pathlib.Path, metavar="DIR", help="folder that gets the chunks")
    parser.add_argument("--quiet", action="store_true", help="one line for each pack")
    args = parser.parse_args()
    for folder in filter(None, (args.extract, args.chunks)):
        folder.mkdir(parents=True, exist_ok=True)
    paths = [file for path in args.packs for file in (sorted(path.rglob("*.pack")) if path.is_dir() else [path])]
    found: list[Damage] = []
    for path in paths:
        try:
            found += show(Pack(path), args.quiet, args.chunks)
        except NeverWritten as note:
            print(f"pack without content: {note}")
        except (Damage, OSError) as error:
            found.append(error if isinstance(error, Damage) else Damage(path, 0, str(error)))
    lines = [f"damaged: {damage}" for damage in found]
    if args.extract:
        lines += extract(paths, args.extract)
    # What the listing found, the extraction may find again.
    for line in dict.fromkeys(lines):
        print(line, file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
