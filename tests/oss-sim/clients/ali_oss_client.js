// Drives the simulator with ali-oss (the official npm SDK), V1 and V4 signatures.
// usage: node ali_oss_client.js http://ENDPOINT http://ADMIN   (ali-oss must be resolvable, e.g. by NODE_PATH)
'use strict';
const assert = require('assert');
const http = require('http');
const OSS = require('ali-oss');

const [endpoint, admin] = process.argv.slice(2);
if (!admin) {
  console.error('usage: node ali_oss_client.js http://ENDPOINT http://ADMIN');
  process.exit(2);
}

function request(method, url, body, headers = {}) {
  return new Promise((resolve, reject) => {
    const req = http.request(url, { method, headers }, (res) => {
      const chunks = [];
      res.on('data', (c) => chunks.push(c));
      res.on('end', () => resolve({ status: res.statusCode, body: Buffer.concat(chunks), headers: res.headers }));
    });
    req.on('error', reject);
    req.end(body);
  });
}

const advance = (seconds) => request('POST', `${admin}/clock/advance`, JSON.stringify({ seconds }));

async function expectError(status, code, promise) {
  try {
    await promise;
  } catch (error) {
    assert.deepStrictEqual([error.status, error.code], [status, code], error.stack);
    return;
  }
  assert.fail(`expected ${status} ${code}`);
}

function cases(authorizationV4) {
  const name = authorizationV4 ? 'v4' : 'v1';
  const bucket = `alioss-${name}`;
  const make = (accessKeySecret) =>
    new OSS({ region: 'oss-cn-hangzhou', endpoint, accessKeyId: 'ak', accessKeySecret, bucket, authorizationV4, retryMax: 0 });
  const client = make('sk');
  const body = Buffer.alloc(300 * 1024, 'cold ');
  return {
    [`ali-oss ${name} put get head`]: async () => {
      await client.putBucket(bucket);
      const key = 'dir/a b+c%&中.bin';
      const put = await client.put(key, body, { meta: { who: 'me' } });
      assert.strictEqual(put.res.status, 200);
      const got = await client.get(key);
      assert(got.content.equals(body));
      const head = await client.head(key);
      assert.strictEqual(head.meta.who, 'me');
      await expectError(404, 'NoSuchKey', client.get('nothing'));
    },
    [`ali-oss ${name} range`]: async () => {
      await client.put('range', body);
      const part = await client.get('range', { headers: { Range: 'bytes=5-9' } });
      assert.strictEqual(part.content.toString(), 'cold ');
    },
    [`ali-oss ${name} multipart`]: async () => {
      const done = await client.multipartUpload('multi', body, { partSize: 100 * 1024, parallel: 1 });
      assert(/-3"$/.test(done.etag), done.etag);
      assert((await client.get('multi')).content.equals(body));
    },
    [`ali-oss ${name} copy`]: async () => {
      await client.copy('copied', 'range', { headers: { 'x-oss-storage-class': 'IA' } });
      const head = await client.head('copied');
      assert.strictEqual(head.res.headers['x-oss-storage-class'], 'IA');
    },
    [`ali-oss ${name} list`]: async () => {
      for (const key of ['l/a', 'l/b/1', 'l/c 中']) await client.put(key, Buffer.from('x'));
      const v2 = await client.listV2({ prefix: 'l/', delimiter: '/' });
      assert.deepStrictEqual(v2.objects.map((o) => o.name), ['l/a', 'l/c 中']);
      assert.deepStrictEqual(v2.prefixes, ['l/b/']);
      const v1 = await client.list({ prefix: 'l/', 'max-keys': 2 });
      assert.deepStrictEqual([v1.objects.length, v1.nextMarker], [2, 'l/b/1']);
    },
    [`ali-oss ${name} delete many`]: async () => {
      const gone = await client.deleteMulti(['l/a', 'l/c 中']);
      assert.deepStrictEqual(gone.deleted.map((d) => d.Key || d), ['l/a', 'l/c 中']);
      await expectError(404, 'NoSuchKey', client.head('l/a'));
    },
    [`ali-oss ${name} refused`]: () => expectError(403, 'SignatureDoesNotMatch', make('wrong').get('range')),
    [`ali-oss ${name} presigned`]: async () => {
      // With an IP this SDK refuses to sign; a host name of OSS is signed, and sent to the simulator with that Host.
      const host = `${bucket}.oss-cn-hangzhou.aliyuncs.com`;
      const signer = new OSS({ region: 'oss-cn-hangzhou', accessKeyId: 'ak', accessKeySecret: 'sk', bucket, authorizationV4 });
      const url = authorizationV4
        ? new URL(await signer.signatureUrlV4('GET', 600, {}, 'range'))
        : new URL(signer.signatureUrl('range', { expires: 600 }));
      assert.strictEqual(url.host, host);
      const got = await request('GET', `${endpoint}${url.pathname}${url.search}`, undefined, { Host: host });
      assert.strictEqual(got.status, 200, got.body.toString());
      assert(got.body.equals(body));
    },
    [`ali-oss ${name} restore Archive`]: async () => {
      await client.put('arc', body, { headers: { 'x-oss-storage-class': 'Archive' } });
      await expectError(403, 'InvalidObjectState', client.get('arc'));
      assert.strictEqual((await client.restore('arc')).res.status, 202);
      await advance(61);
      assert((await client.get('arc')).content.equals(body));
    },
    [`ali-oss ${name} restore ColdArchive`]: async () => {
      await client.put('cold', body, { headers: { 'x-oss-storage-class': 'ColdArchive' } });
      assert.strictEqual((await client.restore('cold', { type: 'ColdArchive', Days: 2, JobParameters: 'Expedited' })).res.status, 202);
      await advance(3601);
      assert((await client.get('cold')).content.equals(body));
    },
  };
}

(async () => {
  await request('PUT', `${admin}/clock`, JSON.stringify({ skew_check: false }));
  const all = Object.entries({ ...cases(false), ...cases(true) });
  const moves = ([name]) => name.includes('restore');
  // Presigned URLs expire by the virtual clock: the cases that move it come last.
  all.sort((a, b) => moves(a) - moves(b));
  let failed = 0;
  for (const [name, run] of all) {
    try {
      await run();
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}\n${error.stack}`);
    }
  }
  process.exit(failed ? 1 : 0);
})();
