"""Keys: finding them, their expiry, and what outlives the server."""

import time

import redis
from common import PATIENCE, InteropTest, control, needs_control, over_wires


def wait_until(condition):
    """For what the passing of time brings."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


@over_wires
class Keys(InteropTest):
    def test_scan_finds_every_key(self):
        keys = {b"scan:%d" % i for i in range(2_000)}
        self.db.mset(dict.fromkeys(keys, 1))
        self.db.mset({"other": 1, "scan": 2})
        self.assertEqual(set(self.db.scan_iter(match="scan:*", count=100)), keys)
        self.assertEqual(set(self.db.scan_iter()), keys | {b"other", b"scan"})
        self.assertEqual(set(self.db.scan_iter(_type="string")), keys | {b"other", b"scan"})
        self.assertEqual(list(self.db.scan_iter(_type="list")), [])
        self.assertEqual(set(self.db.keys("scan:1?")), {b"scan:1%d" % i for i in range(10)})

    def test_scan_finds_what_stays_while_others_come_and_go(self):
        self.db.mset({f"stays:{i}": 1 for i in range(500)})
        seen, cursor, round = set(), None, 0
        while cursor != 0:
            cursor, keys = self.db.scan(cursor or 0, count=20)
            seen.update(keys)
            self.db.set(f"comes:{round}", 1)
            self.db.delete(f"comes:{round - 3}")
            round += 1
        self.assertLessEqual({b"stays:%d" % i for i in range(500)}, seen)

    def test_names(self):
        self.db.set("a", 1)
        self.assertTrue(self.db.rename("a", "b"))
        self.assertEqual(self.db.exists("a", "b", "b"), 2)
        with self.assertRaisesRegex(redis.ResponseError, "^no such key$"):
            self.db.rename("a", "c")
        self.db.set("c", 2)
        self.assertFalse(self.db.renamenx("b", "c"))
        self.assertTrue(self.db.copy("b", "d"))
        self.assertFalse(self.db.copy("b", "c"))
        self.assertTrue(self.db.copy("b", "c", replace=True))
        self.assertEqual(self.db.mget("b", "c", "d"), [b"1"] * 3)
        self.assertEqual(self.db.type("b"), b"string")
        self.assertEqual(self.db.type("a"), b"none")
        self.assertIn(self.db.randomkey(), [b"b", b"c", b"d"])
        self.assertEqual([self.db.touch("b", "x"), self.db.unlink("b", "c", "d")], [1, 3])
        self.assertIsNone(self.db.randomkey())

    def test_expiry(self):
        self.assertEqual([self.db.ttl("k"), self.db.expiretime("k")], [-2, -2])
        self.db.set("k", 1)
        self.assertEqual([self.db.ttl("k"), self.db.expiretime("k")], [-1, -1])
        at = int(time.time()) + 1_000
        self.assertTrue(self.db.expireat("k", at))
        self.assertEqual([self.db.expiretime("k"), self.db.pexpiretime("k")], [at, at * 1_000])
        self.assertFalse(self.db.expire("k", 10, gt=True))
        self.assertTrue(self.db.expire("k", 10, lt=True))
        self.assertTrue(9_000 < self.db.pttl("k") <= 10_000)
        self.assertTrue(self.db.persist("k"))
        self.assertFalse(self.db.persist("k"))
        self.assertEqual(self.db.getex("k", px=20), b"1")
        wait_until(lambda: self.db.get("k") is None)
        self.assertFalse(self.db.expire("k", 10))
        self.db.set("k", 1)
        self.assertTrue(self.db.expire("k", -1))
        self.assertEqual(self.db.exists("k"), 0)

    @needs_control
    def test_expiry_survives_the_server(self):
        at = int(time.time()) + 1_000
        self.db.set("late", 1, exat=at)
        self.db.set("never", 1, ex=10)
        self.db.persist("never")
        self.db.set("soon", 1, px=50)
        control("kill")
        control("again")
        # Of a new pool, so that no old connection is met.
        db = self.connect()
        wait_until(lambda: db.get("soon") is None)
        self.assertEqual(db.expiretime("late"), at)
        self.assertEqual(db.ttl("never"), -1)
        control("kill")
        control("again")
        self.assertEqual(self.connect().mget("soon", "late", "never"), [None, b"1", b"1"])
