"""Programs that keep data sets in S3: pyarrow (AWS's SDK for C++), DuckDB (its own client), s3transfer (many parts at once)."""

import hashlib
import pathlib

import pytest
from blake3 import blake3

from harness import ACCESS_KEY, REGION, SECRET_KEY
from s3util import MIB

ROWS = 60_000
YEARS = [2023, 2024, 2025]


def table():
    """Rows that repeat in no simple way, and have a partition column."""
    import pyarrow as pa

    numbers = range(ROWS)
    return pa.table({
        "id": pa.array(numbers, pa.int64()),
        "year": pa.array([YEARS[n % 3] for n in numbers], pa.int32()),
        "name": pa.array([hashlib.sha256(str(n).encode()).hexdigest() for n in numbers]),
    })  # fmt: skip


@pytest.fixture
def arrow(shared):
    from pyarrow import fs

    return fs.S3FileSystem(
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        endpoint_override=f"127.0.0.1:{shared.port}",
        scheme="http",
        region=REGION,
        # One attempt: what is answered wrongly once must not be healed by a second one.
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
    )


def test_pyarrow_writes_and_reads_a_partitioned_data_set(arrow, s3, bucket):
    import pyarrow.dataset as ds

    rows = table()
    layout = ds.partitioning(rows.select(["year"]).schema, flavor="hive")
    root = f"{bucket}/sets/rows"
    for run in ("first", "second"):  # the second run deletes what the first one wrote
        ds.write_dataset(
            rows, root, filesystem=arrow, format="parquet", partitioning=layout, basename_template=f"{run}-{{i}}.parquet",
            max_rows_per_file=8_000, max_rows_per_group=8_000, existing_data_behavior="delete_matching",
        )  # fmt: skip
    keys = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, Prefix="sets/rows/")["Contents"] if o["Size"]]
    assert len(keys) == 9 and all("/second-" in key for key in keys), keys
    found = ds.dataset(root, filesystem=arrow, format="parquet", partitioning=layout)
    assert found.to_table(columns=["id", "year", "name"]).sort_by("id").equals(rows)
    some = found.to_table(filter=(ds.field("year") == 2024) & (ds.field("id") < 1_000), columns=["id"])
    assert sorted(some["id"].to_pylist()) == [n for n in range(1_000) if n % 3 == 1]


def test_pyarrow_works_with_files_and_folders(arrow, s3, bucket, rng):
    from pyarrow import fs

    body = rng.randbytes(23 * MIB + 5)
    with arrow.open_output_stream(f"{bucket}/a/large", metadata={"Content-Type": "x/y", "own": "value"}) as out:
        for at in range(0, len(body), 3 * MIB + 1):
            out.write(body[at : at + 3 * MIB + 1])
    head = s3.head_object(Bucket=bucket, Key="a/large")
    assert head["ETag"].endswith('-3"') and head["ContentType"] == "x/y", head
    with arrow.open_input_file(f"{bucket}/a/large") as file:
        assert file.size() == len(body)
        assert file.read_at(1_000, 17 * MIB) == body[17 * MIB : 17 * MIB + 1_000]
        assert file.read() == body
    with arrow.open_output_stream(f"{bucket}/a/ünï + &/empty"):
        pass
    arrow.copy_file(f"{bucket}/a/large", f"{bucket}/b/copied = %41")
    arrow.move(f"{bucket}/b/copied = %41", f"{bucket}/c/moved")
    assert [i.type for i in arrow.get_file_info([f"{bucket}/c/moved", f"{bucket}/b/copied = %41", f"{bucket}/a"])] == [
        fs.FileType.File, fs.FileType.NotFound, fs.FileType.Directory,
    ]  # fmt: skip
    infos = arrow.get_file_info(fs.FileSelector(bucket, recursive=True))
    files = {i.path.removeprefix(bucket + "/"): i.size for i in infos if i.type == fs.FileType.File}
    assert files == {"a/large": len(body), "a/ünï + &/empty": 0, "c/moved": len(body)}
    arrow.create_dir(f"{bucket}/d/e")
    arrow.delete_dir(f"{bucket}/a")
    arrow.delete_dir_contents(f"{bucket}/c")
    left = [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert not [key for key in left if not key.endswith("/")], left
    with pytest.raises(FileNotFoundError):
        arrow.open_input_file(f"{bucket}/a/large")


def test_pyarrow_makes_and_deletes_buckets(arrow, s3):
    arrow.create_dir("made-by-arrow/with/folders")
    assert [i.path for i in arrow.get_file_info(selector("made-by-arrow"))] == ["made-by-arrow/with"]
    arrow.delete_dir("made-by-arrow")
    assert "made-by-arrow" not in [b["Name"] for b in s3.list_buckets()["Buckets"]]


def selector(path):
    from pyarrow import fs

    return fs.FileSelector(path)


@pytest.fixture
def duck(shared):
    import duckdb
    import duckdb_extension_httpfs

    # The extension is a Python package of its own: nothing is fetched while tests run.
    folder = pathlib.Path(duckdb_extension_httpfs.__file__).parent
    with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as connection:
        connection.load_extension(str(next(folder.rglob("httpfs.duckdb_extension"))))
        connection.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{ACCESS_KEY}', SECRET '{SECRET_KEY}', REGION '{REGION}', "
            f"ENDPOINT '127.0.0.1:{shared.port}', URL_STYLE 'path', USE_SSL false)"
        )
        connection.execute("SET http_retries = 0")
        yield connection


def test_duckdb_copies_a_partitioned_table_out_and_queries_it(duck, arrow, s3, bucket):
    import pyarrow.dataset as ds

    rows = table()
    duck.register("rows", rows)
    duck.execute(f"COPY rows TO 's3://{bucket}/duck' (FORMAT parquet, PARTITION_BY (year), ROW_GROUP_SIZE 8192)")
    again = f"COPY rows TO 's3://{bucket}/duck' (FORMAT parquet, PARTITION_BY (year), OVERWRITE_OR_IGNORE)"
    duck.execute(again)
    glob = f"read_parquet('s3://{bucket}/duck/*/*.parquet', hive_partitioning = true)"
    assert duck.sql(f"SELECT count(*), sum(id), count(DISTINCT name) FROM {glob}").fetchone() == (
        ROWS, ROWS * (ROWS - 1) // 2, ROWS,
    )  # fmt: skip
    # Skips partitions by name and row groups by their footers: ranged reads.
    assert duck.sql(f"SELECT name FROM {glob} WHERE year = 2025 AND id = 5").fetchone()[0] == rows["name"][5].as_py()
    found = ds.dataset(f"{bucket}/duck", filesystem=arrow, format="parquet", partitioning="hive")
    assert found.count_rows() == ROWS, "what one program wrote another reads"
    assert found.to_table(columns=["id", "name"]).sort_by("id").equals(rows.select(["id", "name"]))


def test_duckdb_writes_large_files_in_parts_and_tells_what_is_missing(duck, s3, bucket):
    import duckdb

    duck.execute("SET s3_uploader_max_filesize = '50GB'")
    csv = f"s3://{bucket}/csv/big file+1.csv"
    duck.execute(f"COPY (SELECT i, sha256(i::VARCHAR) AS h FROM range(250000) t(i)) TO '{csv}' (FORMAT csv)")
    head = s3.head_object(Bucket=bucket, Key="csv/big file+1.csv")
    assert head["ContentLength"] > 17_000_000 and "-" in head["ETag"]
    assert duck.sql(f"SELECT count(*), bool_and(h = sha256(i::VARCHAR)) FROM '{csv}'").fetchone() == (250_000, True)
    with pytest.raises(duckdb.HTTPException, match="404"):
        duck.sql(f"SELECT * FROM 's3://{bucket}/csv/none.csv'").fetchone()


class Made:
    """A file of `size` bytes that nobody wrote: a function of the seed and the place."""

    def __init__(self, seed, size):
        self.source, self.size, self.at, self.hash = blake3(str(seed).encode()), size, 0, hashlib.sha256()

    def read(self, count=-1):
        left = self.size - self.at
        count = left if count is None or count < 0 else min(count, left)
        piece = self.source.digest(length=count, seek=self.at)
        self.at += count
        self.hash.update(piece)
        return piece


class Sink:
    """Takes a download in its order and keeps a digest alone."""

    def __init__(self):
        self.size, self.hash = 0, hashlib.sha256()

    def write(self, piece):
        self.size += len(piece)
        self.hash.update(piece)


def there_and_back(server, bucket, size):
    """Up in parts and down in ranges, eight at once each; the digests must be equal."""
    from boto3.s3.transfer import TransferConfig

    client = server.client(max_pool_connections=16)
    how = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=16 * MIB, max_concurrency=8)
    source, sink = Made(size, size), Sink()
    client.upload_fileobj(source, bucket, "transferred", Config=how)
    assert client.head_object(Bucket=bucket, Key="transferred")["ETag"].endswith(f'-{size // (16 * MIB)}"')
    client.download_fileobj(bucket, "transferred", sink, Config=how)
    assert (sink.size, sink.hash.hexdigest()) == (size, source.hash.hexdigest())
    client.delete_object(Bucket=bucket, Key="transferred")


@pytest.mark.slow
def test_s3transfer_brings_a_quarter_of_a_gigabyte_there_and_back(shared, bucket):
    there_and_back(shared, bucket, 256 * MIB)


@pytest.mark.full
def test_s3transfer_brings_two_gigabytes_there_and_back(shared, bucket):
    there_and_back(shared, bucket, 2048 * MIB)
