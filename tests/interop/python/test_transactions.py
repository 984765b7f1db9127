"""Transactions, and what people build on them: read-modify-write, and locks."""

import threading
import uuid

import redis
from common import InteropTest, control, differs, is_kvs, needs_control, over_wires


class ComparingLock:
    """A lock of a key: SET NX PX takes it, and only who took it gives it back.

    redis-py's own Lock compares and deletes in a script; this does so under WATCH, and runs on both
    servers. With kvs one command, DELIFEQ, is enough.
    """

    def __init__(self, db, name, milliseconds):
        self.db, self.name, self.milliseconds = db, name, milliseconds
        self.token = uuid.uuid4().hex.encode()

    def take(self):
        return bool(self.db.set(self.name, self.token, nx=True, px=self.milliseconds))

    def give_back(self):
        """Whether it was still ours."""

        def delete(pipe):
            ours = pipe.get(self.name) == self.token
            pipe.multi()
            if ours:
                pipe.delete(self.name)

        return self.db.transaction(delete, self.name) == [1]


@over_wires
class Transactions(InteropTest):
    def test_a_transaction_happens_as_a_whole(self):
        with self.db.pipeline() as pipe:
            pipe.set("a", 1).incr("a").append("b", b"\x00\xff").get("a").get("b").exists("c")
            self.assertEqual(pipe.execute(), [True, 2, 2, b"2", b"\x00\xff", 0])

    def test_a_large_transaction(self):
        with self.db.pipeline() as pipe:
            for i in range(5_000):
                pipe.set(f"t{i}", i).get(f"t{i}")
            replies = pipe.execute()
        self.assertEqual(replies[1::2], [b"%d" % i for i in range(5_000)])
        self.assertEqual(self.db.dbsize(), 5_000)

    def test_an_error_in_a_transaction_undoes_nothing(self):
        self.db.set("text", "abc")
        with self.db.pipeline() as pipe:
            pipe.set("a", 1).incr("text").set("b", 2)
            replies = pipe.execute(raise_on_error=False)
        self.assertIsInstance(replies[1], redis.ResponseError)
        self.assertEqual(self.db.mget("a", "b"), [b"1", b"2"])

    def test_a_new_data_set_takes_the_place_of_the_old_one(self):
        self.db.mset({"a": "old", "b": "old"})
        built = self.connect(db=1)
        built.mset({"a": "new", "c": "new"})
        with self.db.pipeline() as pipe:
            pipe.watch("a")
            built.swapdb(0, 1)
            pipe.multi()
            pipe.set("a", "of the old one")
            with self.assertRaises(redis.WatchError):
                pipe.execute()
        self.assertEqual(self.db.mget("a", "b", "c"), [b"new", None, b"new"])
        self.assertEqual(built.mget("a", "b", "c"), [b"old", b"old", None])
        with self.assertRaisesRegex(redis.ResponseError, "DB index is out of range"):
            self.db.swapdb(0, 16)

    def test_a_wrong_request_refuses_the_transaction(self):
        with self.db.pipeline() as pipe:
            pipe.set("a", 1).execute_command("GET")
            with self.assertRaises(redis.ResponseError):
                pipe.execute()
        self.assertIsNone(self.db.get("a"))
        single = self.connect(max_connections=1)
        single.execute_command("MULTI")
        with self.assertRaises(redis.ResponseError):
            single.execute_command("NOSUCH")
        with self.assertRaises(redis.exceptions.ExecAbortError):
            single.execute_command("EXEC")

    def test_a_watched_key_that_changes_refuses_the_transaction(self):
        other = self.connect()
        changes = {
            "set": lambda: other.set("watched", 2),
            "the same value": lambda: other.set("watched", 1),
            "delete": lambda: other.delete("watched"),
            "expire": lambda: other.expire("watched", 100),
            "flush": lambda: other.flushall(),
        }
        for name, change in changes.items():
            with self.subTest(name), self.db.pipeline() as pipe:
                self.db.set("watched", 1)
                pipe.watch("watched")
                self.assertEqual(pipe.get("watched"), b"1")
                change()
                pipe.multi()
                pipe.set("result", name)
                with self.assertRaises(redis.WatchError):
                    pipe.execute()
                self.assertIsNone(self.db.get("result"))

    def test_what_is_not_watched_any_more_refuses_nothing(self):
        with self.db.pipeline() as pipe:
            pipe.watch("watched")
            self.db.set("watched", 1)
            pipe.unwatch()
            pipe.multi()
            pipe.set("result", 1)
            self.assertEqual(pipe.execute(), [True])

    def test_two_clients_that_watch_count_right(self):
        def count():
            def add(pipe):
                value = int(pipe.get("count") or 0)
                pipe.multi()
                pipe.set("count", value + 1)

            db = self.connect()
            for _ in range(50):
                db.transaction(add, "count")

        threads = [threading.Thread(target=count) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(self.db.get("count"), b"100")

    def test_a_lock_has_one_holder(self):
        mine = ComparingLock(self.db, "lock", 100_000)
        other = ComparingLock(self.connect(), "lock", 100_000)
        self.assertTrue(mine.take())
        self.assertFalse(other.take())
        self.assertFalse(other.give_back())
        self.assertTrue(mine.give_back())
        self.assertTrue(other.take())
        self.assertFalse(mine.give_back())
        self.assertEqual(self.db.get("lock"), other.token)

    def test_a_lock_by_compare_and_delete(self):
        if not is_kvs():
            self.skipTest("Redis has no DELIFEQ")
        lock = ComparingLock(self.db, "lock", 100_000)
        self.assertTrue(lock.take())
        self.assertEqual(self.db.execute_command("DELIFEQ", "lock", "another's"), 0)
        self.assertEqual(self.db.execute_command("DELIFEQ", "lock", lock.token), 1)

    @differs("nor do scripts and subscriptions")
    def test_the_lock_of_the_library(self):
        """It uses a script."""
        with self.db.lock("lock", timeout=100):
            self.assertFalse(self.db.lock("lock").acquire(blocking=False))
        self.assertIsNone(self.db.get("lock"))

    @needs_control
    def test_an_acknowledged_transaction_outlives_a_kill(self):
        with self.db.pipeline() as pipe:
            for i in range(100):
                pipe.set(f"t{i}", "x" * 1_000)
            pipe.execute()
        control("kill")
        control("again")
        self.assertEqual(self.connect().dbsize(), 100)


@over_wires
class Databases(InteropTest):
    def test_databases_have_keys_of_their_own(self):
        third = self.connect(db=3)
        self.db.set("k", 0)
        third.set("k", 3)
        self.assertEqual([self.db.get("k"), third.get("k")], [b"0", b"3"])
        self.assertEqual(set(self.db.info("keyspace")), {"db0", "db3"})
        third.flushdb()
        self.assertEqual([self.db.get("k"), third.get("k")], [b"0", None])
        third.set("k", 3)
        self.db.flushall()
        self.assertEqual(third.dbsize(), 0)

    def test_there_are_sixteen(self):
        with self.assertRaisesRegex(redis.ResponseError, "DB index is out of range"):
            self.connect(db=16).ping()
        self.assertTrue(self.connect(db=15).ping())
