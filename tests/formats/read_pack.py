"""Lists, verifies and extracts the chunks of packs, by docs/formats.md alone: no code of Tidegate is used.

    read_pack.py PACK...                verifies each pack, lists its frames
    read_pack.py --extract DIR PACK...  also writes each good chunk to DIR/CHUNK-ID (manifest nodes to CHUNK-ID.node)

Exit code 1 when something is damaged; each finding names the file and the offset. The unfinished end of a pack that was
never sealed is reported, and is no damage.
"""

import argparse
import datetime
import pathlib
import sys

from damage import Damage
from packs import CODECS, KINDS, NODE, NeverWritten, Pack


def show(pack: Pack, quiet: bool, extract: pathlib.Path | None) -> list[Damage]:
    scan = pack.verify()
    created = datetime.datetime.fromtimestamp(pack.created / 1000, datetime.UTC)
    state = "sealed" if pack.sealed else "unsealed"
    stored, raw = (sum(getattr(frame, field) for frame in scan.frames) for field in ("stored_length", "raw_length"))
    print(
        f"{pack.path}: pack {pack.id.hex()}, {pack.kind}, {state}, created {created:%Y-%m-%dT%H:%M:%SZ}, "
        f"{len(scan.frames)} good frames, {stored} bytes stored, {raw} raw"
    )
    for frame in scan.frames:
        if not quiet:
            kind, codec = KINDS[frame.kind], CODECS[frame.codec]
            print(
                f"{frame.offset:>10} {kind} {codec:>4} {frame.stored_length:>8} {frame.raw_length:>8} {frame.id.hex()}"
            )
        if extract:
            name = frame.id.hex() + (".node" if frame.kind == NODE else "")
            (extract / name).write_bytes(pack.chunk(frame))
    if scan.torn:
        print(f"torn end, {pack.size - scan.torn.offset} bytes: {scan.torn}")
    return scan.damage


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", nargs="+", type=pathlib.Path, metavar="PACK")
    parser.add_argument("--extract", type=pathlib.Path, metavar="DIR", help="folder that gets the chunks")
    parser.add_argument("--quiet", action="store_true", help="one line for each pack")
    args = parser.parse_args()
    if args.extract:
        args.extract.mkdir(parents=True, exist_ok=True)
    found: list[Damage] = []
    for path in args.packs:
        try:
            found += show(Pack(path), args.quiet, args.extract)
        except NeverWritten as note:
            print(f"pack without content: {note}")
        except (Damage, OSError) as error:
            found.append(error if isinstance(error, Damage) else Damage(path, 0, str(error)))
    for damage in found:
        print(f"damaged: {damage}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
