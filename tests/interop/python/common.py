"""What the tests of redis-py share: connections, and the server's life.

A test class marked with `over_wires` runs once for each protocol version and parser of redis-py.
"""

import os
import subprocess
import sys
import unittest

import redis
from redis._parsers import _HiredisParser, _RESP2Parser, _RESP3Parser

HOST = os.environ["INTEROP_HOST"]
PORT = int(os.environ["INTEROP_PORT"])
CONTROL = os.environ.get("INTEROP_CONTROL")
# Long, as machines may be busy.
PATIENCE = 120

# Name, protocol version, parser: redis-py has one in Python for each version, and one in C.
WIRES = {
    "resp2": (2, _RESP2Parser),
    "resp3": (3, _RESP3Parser),
    "resp2_hiredis": (2, _HiredisParser),
    "resp3_hiredis": (3, _HiredisParser),
}

ALL_BYTES = bytes(range(256))
MIB = 1 << 20


def over_wires(case):
    """In place of the class, one that derives from it for each wire."""
    module = sys.modules[case.__module__]
    for wire in WIRES:
        name = f"{case.__name__}_{wire}"
        setattr(module, name, type(name, (case,), {"wire": wire, "__module__": case.__module__}))
    return None


def control(step):
    """Has the server killed, stopped or started again, as `step` says."""
    subprocess.run([CONTROL, step], check=True)


def needs_control(test):
    return unittest.skipUnless(CONTROL, "needs a server that it may kill")(test)


def differs(words):
    """Skips a test on kvs for a difference from Redis that docs/protocol.md states in `words`."""
    with open(os.environ["INTEROP_PROTOCOL"]) as page:
        stated = " ".join(page.read().split())
    if words not in stated:
        raise AssertionError(f"docs/protocol.md does not say: {words}")
    return unittest.skipIf(is_kvs(), words)


def is_kvs():
    """Whether the server is kvs: what it calls itself."""
    with redis.Redis(HOST, PORT, protocol=3, socket_timeout=PATIENCE) as connection:
        return connection.execute_command("HELLO", 3)[b"server"] == b"kvs"


class InteropTest(unittest.TestCase):
    """A test with a connection to an empty server."""

    wire = "resp2"

    def setUp(self):
        self.db = self.connect()
        self.db.flushall()

    def options(self):
        protocol, parser = self.wire_of()
        return {
            "host": HOST,
            "port": PORT,
            "protocol": protocol,
            "parser_class": parser,
            "socket_timeout": PATIENCE,
            "socket_connect_timeout": PATIENCE,
        }

    def wire_of(self):
        return WIRES[self.wire]

    @property
    def is_resp3(self):
        return self.wire_of()[0] == 3

    def connect(self, **more):
        """A client with a pool of its own."""
        db = redis.Redis.from_pool(redis.ConnectionPool(**(self.options() | more)))
        self.addCleanup(db.close)
        return db
