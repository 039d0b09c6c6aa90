// The SDK of AWS for JavaScript, version 3, against the endpoint in the environment: node sdk.cjs ENDPOINT BUCKET
// Prints one line `ok ...` for each case; the first difference ends it with an error.

const assert = require("node:assert");
const { createHash } = require("node:crypto");
const { Readable } = require("node:stream");
const {
  S3Client, AbortMultipartUploadCommand, CopyObjectCommand, DeleteObjectsCommand, GetObjectCommand, HeadObjectCommand,
  ListMultipartUploadsCommand, PutObjectCommand, paginateListObjectsV2, waitUntilObjectExists,
} = require("@aws-sdk/client-s3");
const { Upload } = require("@aws-sdk/lib-storage");

const [endpoint, Bucket] = process.argv.slice(2);
// maxAttempts 1: what is answered wrongly once must not be healed by a second attempt.
const client = new S3Client({ endpoint, region: "us-east-1", forcePathStyle: true, maxAttempts: 1 });
const send = (Command, input) => client.send(new Command({ Bucket, ...input }));
const MIB = 1 << 20;

// `pieces` of odd sizes whose bytes depend on their numbers; nobody knows the length before its end.
function stream(pieces, hash) {
  return Readable.from((function* () {
    for (let n = 0; n < pieces; n++) {
      const seed = createHash("sha256").update(String(n)).digest();
      const piece = Buffer.alloc(100_003 + n, seed);
      hash.update(piece);
      yield piece;
    }
  })());
}

async function digestOf(body) {
  const hash = createHash("sha256");
  for await (const piece of body) hash.update(piece);
  return hash.digest("hex");
}

async function unknownLength() {
  const hash = createHash("sha256");
  const upload = new Upload({
    client, queueSize: 4, partSize: 5 * MIB,
    params: { Bucket, Key: "stream/of unknown length", Body: stream(230, hash), ContentType: "x/y", Metadata: { from: "node" } },
  });
  let loaded = 0;
  upload.on("httpUploadProgress", (progress) => { loaded = Math.max(loaded, progress.loaded); });
  const done = await upload.done();
  assert.match(done.ETag, /-5"$/);
  const head = await send(HeadObjectCommand, { Key: "stream/of unknown length", ChecksumMode: "ENABLED" });
  assert.strictEqual(head.ContentLength, loaded);
  assert.strictEqual(head.Metadata.from, "node");
  assert.ok(head.ChecksumCRC32, "the SDK sends CRC32 by itself, and gets it back");
  const got = await send(GetObjectCommand, { Key: "stream/of unknown length", ChecksumMode: "ENABLED" });
  assert.strictEqual(await digestOf(got.Body), hash.digest("hex"));
}

async function shortStream() {
  const hash = createHash("sha256");
  await new Upload({ client, params: { Bucket, Key: "stream/short", Body: stream(1, hash) } }).done();
  const got = await send(GetObjectCommand, { Key: "stream/short" });
  assert.strictEqual(await digestOf(got.Body), hash.digest("hex"));
  await new Upload({ client, params: { Bucket, Key: "stream/empty", Body: Readable.from([]) } }).done();
  assert.strictEqual((await send(HeadObjectCommand, { Key: "stream/empty" })).ContentLength, 0);
}

async function aborted() {
  const upload = new Upload({ client, partSize: 5 * MIB, params: { Bucket, Key: "stream/aborted", Body: stream(230, createHash("md5")) } });
  upload.on("httpUploadProgress", () => upload.abort());
  await assert.rejects(upload.done(), { name: "AbortError" });
  // Parts that were under way when the abort came may have kept the upload open; S3 has the same race.
  for (const left of (await send(ListMultipartUploadsCommand, {})).Uploads ?? []) {
    await send(AbortMultipartUploadCommand, { Key: left.Key, UploadId: left.UploadId });
  }
  assert.strictEqual((await send(ListMultipartUploadsCommand, {})).Uploads, undefined);
  await assert.rejects(send(HeadObjectCommand, { Key: "stream/aborted" }), { name: "NotFound" });
}

async function streamedPut() {
  const body = Buffer.alloc(3 * MIB + 1, "streamed");
  const input = { Key: "put/streamed", Body: Readable.from([body]), ContentLength: body.length };
  for (const ChecksumAlgorithm of ["CRC32", "CRC32C", "SHA1", "SHA256"]) {
    await send(PutObjectCommand, { ...input, Body: Readable.from([body]), ChecksumAlgorithm });
    const got = await send(GetObjectCommand, { Key: input.Key, ChecksumMode: "ENABLED" });
    assert.ok(got[`Checksum${ChecksumAlgorithm}`], ChecksumAlgorithm);
    assert.ok(Buffer.from(await got.Body.transformToByteArray()).equals(body), ChecksumAlgorithm);
  }
}

async function oddKeys() {
  for (const Key of ["odd/ü + &?=#%25.txt", "odd//twice", "odd/../up", "odd/'quoted' (1)!*", "odd/日本"]) {
    await send(PutObjectCommand, { Key, Body: Key });
    await waitUntilObjectExists({ client, maxWaitTime: 10 }, { Bucket, Key });
    assert.strictEqual(await (await send(GetObjectCommand, { Key })).Body.transformToString(), Key);
    await send(CopyObjectCommand, { Key: `${Key}.copy`, CopySource: encodeURIComponent(`${Bucket}/${Key}`) });
    assert.strictEqual(await (await send(GetObjectCommand, { Key: `${Key}.copy` })).Body.transformToString(), Key);
  }
}

async function pagesAndDeletions() {
  const keys = [];
  for await (const page of paginateListObjectsV2({ client, pageSize: 3 }, { Bucket })) {
    keys.push(...(page.Contents ?? []).map(({ Key }) => Key));
  }
  assert.deepStrictEqual(keys, [...keys].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))));
  assert.strictEqual(keys.length, 14);
  const deleted = await send(DeleteObjectsCommand, { Delete: { Objects: keys.map((Key) => ({ Key })) } });
  assert.strictEqual(deleted.Deleted.length, keys.length);
  assert.strictEqual(deleted.Errors, undefined);
  await assert.rejects(send(GetObjectCommand, { Key: keys[0] }), { name: "NoSuchKey" });
}

(async () => {
  for (const test of [unknownLength, shortStream, aborted, streamedPut, oddKeys, pagesAndDeletions]) {
    await test();
    console.log(`ok ${test.name}`);
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
