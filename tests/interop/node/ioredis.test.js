// ioredis: RESP2, unasked pipelining, and a connection that is made again by itself.
"use strict";

const assert = require("node:assert/strict");
const { afterEach, beforeEach, test } = require("node:test");
const Redis = require("ioredis");
const {
  afterLoading,
  allBytes,
  control,
  filled,
  foreign,
  host,
  port,
  until,
  MIB,
} = require("./common.js");

const MANY = 10_000;

let clients = [];
let db;

function connect(options = {}) {
  const client = new Redis({ host, port, ...options });
  // Killing the server makes it report a lost connection; what matters are the replies.
  client.on("error", () => {});
  clients.push(client);
  return client;
}

beforeEach(async () => {
  db = connect();
  await db.flushall();
});

afterEach(() => {
  clients.forEach((client) => client.disconnect());
  clients = [];
});

test("keys and values hold any byte", async () => {
  await db.set(allBytes, allBytes);
  assert.deepEqual(await db.getBuffer(allBytes), allBytes);
  const single = [...allBytes].map((byte) => Buffer.from([byte]));
  await db.mset(...single.flatMap((byte) => [byte, byte]));
  assert.deepEqual(await db.mgetBuffer(...single), single);
  assert.equal(await db.dbsize(), 257);
});

test("empty is not missing", async () => {
  await db.set("empty", "");
  assert.equal(await db.get("empty"), "");
  assert.equal(await db.get("missing"), null);
  assert.deepEqual(await db.mget("empty", "missing"), ["", null]);
});

for (const size of [1, 64]) {
  test(`a value of ${size} MiB`, async () => {
    const value = filled(size * MIB);
    assert.equal(await db.set("large", value), "OK");
    assert.equal(await db.strlen("large"), value.length);
    assert.ok(value.equals(await db.getBuffer("large")));
  });
}

test("many commands in one pipeline", async () => {
  const pipeline = db.pipeline();
  for (let i = 0; i < MANY / 2; i++) pipeline.set(`p${i}`, i);
  for (let i = 0; i < MANY / 2; i++) pipeline.get(`p${i}`);
  const replies = await pipeline.exec();
  assert.equal(replies.length, MANY);
  replies.forEach(([error, reply], i) => {
    assert.equal(error, null);
    assert.equal(reply, i < MANY / 2 ? "OK" : String(i - MANY / 2));
  });
});

test("a pipeline reads what it has just written", async () => {
  const pipeline = db.pipeline();
  for (let i = 0; i < 100; i++) pipeline.set("k", i).get("k");
  const replies = (await pipeline.exec()).map(([, reply]) => reply);
  replies.forEach((reply, i) => assert.equal(reply, i % 2 ? String((i - 1) / 2) : "OK"));
});

test("commands that are not waited for keep their order", async () => {
  const counts = Array.from({ length: 1_000 }, () => db.incr("n"));
  assert.deepEqual(await Promise.all(counts), Array.from({ length: 1_000 }, (_, i) => i + 1));
  const automatic = connect({ enableAutoPipelining: true });
  const more = Array.from({ length: 1_000 }, () => automatic.incr("n"));
  assert.equal((await Promise.all(more)).at(-1), 2_000);
});

test("transactions", async () => {
  const replies = await db.multi().set("a", 1).incr("a").getBuffer("a").exec();
  assert.deepEqual(replies, [[null, "OK"], [null, 2], [null, Buffer.from("2")]]);
  await db.set("text", "abc");
  const [, [failed], [, after]] = await db.multi().set("b", 1).incr("text").incr("b").exec();
  assert.equal(failed.message, "ERR value is not an integer or out of range");
  assert.equal(after, 2);
  await assert.rejects(db.multi().set("c").exec(), /EXECABORT|wrong number of arguments/);
});

test("a watched key that another client changes refuses the transaction", async () => {
  const other = connect();
  await db.watch("watched");
  await other.set("watched", "changed");
  assert.equal(await db.multi().set("result", 1).exec(), null);
  assert.equal(await db.exists("result"), 0);
  assert.deepEqual(await db.multi().set("result", 1).exec(), [[null, "OK"]]);
});

test("databases have keys of their own", async () => {
  const third = connect({ db: 3 });
  await third.set("k", "3");
  assert.equal(await db.get("k"), null);
  await db.select(3);
  assert.equal(await db.get("k"), "3");
});

test("errors are told to those whom they concern", async () => {
  await db.set("text", "abc");
  await assert.rejects(db.incr("text"), {
    name: "ReplyError",
    message: "ERR value is not an integer or out of range",
  });
  await assert.rejects(db.call("NOSUCH", "a"), /^ReplyError: ERR unknown command 'NOSUCH'/);
  const [[failed], [, reply]] = await db.pipeline().incr("text").get("text").exec();
  assert.equal(failed.message, "ERR value is not an integer or out of range");
  assert.equal(reply, "abc");
});

test("the options of set, and counters", async () => {
  assert.equal(await db.set("k", "1", "PX", 100_000, "NX"), "OK");
  assert.equal(await db.set("k", "2", "NX"), null);
  assert.equal(await db.set("k", "2", "KEEPTTL", "GET"), "1");
  const left = await db.pttl("k");
  assert.ok(left > 0 && left <= 100_000);
  assert.equal(await db.incrby("k", 40), 42);
  assert.equal(await db.incrbyfloat("k", 0.5), "42.5");
  assert.equal(await db.getdel("k"), "42.5");
});

test("scans find every key", async () => {
  const keys = Array.from({ length: 1_000 }, (_, i) => `scan:${i}`);
  await db.mset(...keys.flatMap((key) => [key, 1]), "other", 1);
  const found = new Set();
  for await (const batch of db.scanStream({ match: "scan:*", count: 50 })) {
    batch.forEach((key) => found.add(key));
  }
  assert.deepEqual(found, new Set(keys));
});

test("a prefix is put before keys", async () => {
  const prefixed = connect({ keyPrefix: "app:" });
  await prefixed.mset("a", 1, "b", 2);
  assert.deepEqual((await db.keys("*")).sort(), ["app:a", "app:b"]);
  assert.deepEqual(await prefixed.mget("a", "b"), ["1", "2"]);
});

test("names and what the server tells", async () => {
  const named = connect({ connectionName: "interop-ioredis" });
  assert.equal(await named.client("GETNAME"), "interop-ioredis");
  assert.match(await db.info(), /^redis_version:7\./m);
  const [name, limit] = await db.config("GET", "maxclients");
  assert.deepEqual([name, limit], ["maxclients", "10000"]);
  const [[command, arity, flags]] = await db.command("INFO", "get");
  assert.deepEqual([command, arity], ["get", 2]);
  assert.ok(flags.includes("readonly"));
});

test("what was set to expire does so across a kill", { skip: foreign }, async () => {
  await db.set("soon", "1", "PX", 50);
  await db.set("late", "1", "EX", 1_000);
  await control("kill");
  await control("again");
  const again = connect();
  await until(async () => (await again.get("soon")) === null);
  const left = await again.ttl("late");
  assert.ok(left > 0 && left <= 1_000);
});

test("a killed server is found again with what it acknowledged", { skip: foreign }, async () => {
  const waiting = connect({ retryStrategy: () => 50, maxRetriesPerRequest: null });
  let losses = 0;
  waiting.on("close", () => (losses += 1));
  const keys = Array.from({ length: 100 }, (_, i) => `acknowledged:${i}`);
  await Promise.all(keys.map((key) => waiting.set(key, key)));
  await control("kill");
  // Queued by the client until the server is there again.
  const reply = afterLoading(() => waiting.mget(...keys));
  await control("again");
  assert.deepEqual(await reply, keys);
  assert.ok(losses > 0);
});
