// What the tests of ioredis and node-redis share: where the server is, and its life.
"use strict";

const { execFile } = require("node:child_process");
const { promisify } = require("node:util");

const run = promisify(execFile);

const host = process.env.INTEROP_HOST;
const port = Number(process.env.INTEROP_PORT);
const ownServer = process.env.INTEROP_CONTROL;

// Long, as machines may be busy.
const PATIENCE = 120_000;
const MIB = 1 << 20;

const allBytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));

// Has the server killed, stopped or started again, as `step` says.
const control = (step) => run(ownServer, [step]);

// For tests that kill the server: why they are left out, or false.
const foreign = ownServer ? false : "needs a server that it may kill";

// Bytes in a pattern that shows where a piece is missing.
function filled(size) {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; at += 4) bytes.writeUInt32LE(at, at);
  return bytes;
}

async function until(condition) {
  const limit = Date.now() + PATIENCE;
  while (!(await condition())) {
    if (Date.now() > limit) throw new Error("waited in vain");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

// A server that starts again tells early callers that it is loading: asks until it has loaded.
async function afterLoading(ask) {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!/^LOADING/.test(error.message)) throw error;
    }
  }
}

module.exports = { afterLoading, allBytes, control, filled, foreign, host, port, until, MIB };
