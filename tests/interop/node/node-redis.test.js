// node-redis, in RESP2 and RESP3: typed replies, pools, and a connection that is made again by itself.
"use strict";

const assert = require("node:assert/strict");
const { afterEach, beforeEach, describe, test } = require("node:test");
const { createClient, createClientPool, RESP_TYPES, WatchError } = require("redis");
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
const BUFFERS = { [RESP_TYPES.BLOB_STRING]: Buffer };

for (const RESP of [2, 3]) describe(`RESP${RESP}`, () => suite(RESP));

function suite(RESP) {
  let clients = [];
  let db;

  async function connect(options = {}) {
    const client = createClient({ RESP, socket: { host, port }, ...options });
    client.on("error", () => {});
    clients.push(client);
    await client.connect();
    return client;
  }

  beforeEach(async () => {
    db = await connect();
    await db.flushAll();
  });

  afterEach(() => {
    clients.forEach((client) => client.isOpen && client.destroy());
    clients = [];
  });

  test("keys and values hold any byte", async () => {
    const bytes = db.withTypeMapping(BUFFERS);
    assert.equal(await db.set(allBytes, allBytes), "OK");
    assert.deepEqual(await bytes.get(allBytes), allBytes);
    const single = [...allBytes].map((byte) => Buffer.from([byte]));
    await db.mSet(single.map((byte) => [byte, byte]));
    assert.deepEqual(await bytes.mGet(single), single);
    assert.equal(await db.dbSize(), 257);
  });

  test("empty is not missing", async () => {
    await db.set("empty", "");
    assert.deepEqual(await db.mGet(["empty", "missing"]), ["", null]);
  });

  for (const size of [1, 64]) {
    test(`a value of ${size} MiB`, async () => {
      const value = filled(size * MIB);
      assert.equal(await db.set("large", value), "OK");
      assert.equal(await db.strLen("large"), value.length);
      assert.ok(value.equals(await db.withTypeMapping(BUFFERS).get("large")));
    });
  }

  test("many commands in one pipeline", async () => {
    const pipeline = db.multi();
    for (let i = 0; i < MANY / 2; i++) pipeline.set(`p${i}`, String(i));
    for (let i = 0; i < MANY / 2; i++) pipeline.get(`p${i}`);
    const replies = await pipeline.execAsPipeline();
    assert.equal(replies.length, MANY);
    const expected = (i) => (i < MANY / 2 ? "OK" : String(i - MANY / 2));
    replies.forEach((reply, i) => assert.equal(reply, expected(i)));
  });

  test("a pipeline reads what it has just written", async () => {
    const pipeline = db.multi();
    for (let i = 0; i < 100; i++) pipeline.set("k", String(i)).get("k");
    const replies = await pipeline.execAsPipeline();
    replies.forEach((reply, i) => assert.equal(reply, i % 2 ? String((i - 1) / 2) : "OK"));
  });

  test("commands that are not waited for keep their order", async () => {
    const counts = Array.from({ length: 1_000 }, () => db.incr("n"));
    assert.deepEqual(await Promise.all(counts), Array.from({ length: 1_000 }, (_, i) => i + 1));
  });

  test("transactions", async () => {
    assert.deepEqual(await db.multi().set("a", "1").incr("a").get("a").exec(), ["OK", 2, "2"]);
    await db.set("text", "abc");
    const failing = db.multi().set("b", "1").incr("text").incr("b").exec();
    const replies = await failing.catch((error) => error.replies);
    assert.equal(replies[1].message, "ERR value is not an integer or out of range");
    assert.equal(await db.get("b"), "2");
  });

  test("a watched key that another client changes refuses the transaction", async () => {
    await db.watch("watched");
    await (await connect()).set("watched", "changed");
    await assert.rejects(db.multi().set("result", "1").exec(), WatchError);
    assert.equal(await db.exists("result"), 0);
  });

  test("databases have keys of their own", async () => {
    const third = await connect({ database: 3 });
    await third.set("k", "3");
    assert.equal(await db.get("k"), null);
    assert.equal(await third.get("k"), "3");
  });

  test("replies have their types", async () => {
    const hello = await db.hello();
    assert.equal(hello.proto, RESP);
    assert.equal(hello.role, "master");
    assert.deepEqual(Object.keys(await db.configGet("maxclients")), ["maxclients"]);
    assert.equal(await db.get("missing"), null);
    assert.equal(await db.incrByFloat("f", 1.5), "1.5");
    assert.equal(await db.type("f"), "string");
    assert.equal((await db.clientInfo()).id, await db.clientId());
    const [get] = await db.commandInfo(["get"]);
    assert.equal(get.arity, 2);
    assert.match(await db.info("server"), /^redis_version:7\./m);
    assert.ok(Math.abs(Number((await db.time())[0]) - Date.now() / 1_000) < 60);
  });

  test("errors are told to those whom they concern", async () => {
    await db.set("text", "abc");
    const message = "ERR value is not an integer or out of range";
    await assert.rejects(db.incr("text"), { message });
    await assert.rejects(db.sendCommand(["NOSUCH"]), { message: /^ERR unknown command 'NOSUCH'/ });
    assert.equal(await db.get("text"), "abc");
  });

  test("the options of set, and expiry", async () => {
    const expiration = { type: "PX", value: 100_000 };
    assert.equal(await db.set("k", "1", { expiration, condition: "NX" }), "OK");
    assert.equal(await db.set("k", "2", { condition: "NX" }), null);
    assert.equal(await db.set("k", "2", { expiration: "KEEPTTL", GET: true }), "1");
    const left = await db.pTTL("k");
    assert.ok(left > 0 && left <= 100_000);
    assert.equal(await db.getEx("k", { type: "PX", value: 20 }), "2");
    await until(async () => (await db.exists("k")) === 0);
  });

  test("scans find every key", async () => {
    const keys = Array.from({ length: 1_000 }, (_, i) => `scan:${i}`);
    await db.mSet([...keys, "other"].map((key) => [key, "1"]));
    const found = new Set();
    for await (const batch of db.scanIterator({ MATCH: "scan:*", COUNT: 50 })) {
      batch.forEach((key) => found.add(key));
    }
    assert.deepEqual(found, new Set(keys));
  });

  test("names, and a pool", async () => {
    const named = await connect({ name: "interop-node" });
    assert.equal(await named.clientGetName(), "interop-node");
    const pool = createClientPool({ RESP, socket: { host, port } }, { maximum: 4 });
    await pool.connect();
    try {
      await Promise.all(Array.from({ length: 200 }, () => pool.incr("shared")));
      assert.equal(await pool.get("shared"), "200");
    } finally {
      pool.destroy();
    }
  });

  test("a killed server is found again with what it acknowledged", { skip: foreign }, async () => {
    const waiting = await connect({ socket: { host, port, reconnectStrategy: 50 } });
    const keys = Array.from({ length: 100 }, (_, i) => `acknowledged:${i}`);
    await Promise.all(keys.map((key) => waiting.set(key, key)));
    await waiting.set("late", "1", { expiration: { type: "EX", value: 1_000 } });
    const lost = new Promise((resolve) => waiting.once("reconnecting", resolve));
    await control("kill");
    await lost;
    // Queued by the client until the server is there again.
    const reply = afterLoading(() => waiting.mGet(keys));
    await control("again");
    assert.deepEqual(await reply, keys);
    const left = await waiting.ttl("late");
    assert.ok(left > 0 && left <= 1_000);
  });
}
