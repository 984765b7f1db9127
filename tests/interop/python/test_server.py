"""What the server tells of itself is understood by the library."""

import redis
from common import InteropTest, over_wires


@over_wires
class Telling(InteropTest):
    def test_info(self):
        self.db.set("a", 1)
        info = self.db.info()
        for field in [
            "redis_version", "process_id", "tcp_port", "uptime_in_seconds", "connected_clients",
            "maxclients", "used_memory", "used_memory_rss", "total_connections_received",
            "total_commands_processed", "keyspace_hits", "keyspace_misses", "role",
        ]:  # fmt: skip
            self.assertIn(field, info)
        self.assertIsInstance(info["uptime_in_seconds"], int)
        self.assertEqual(info["role"], "master")
        self.assertTrue(self.db.info("commandstats")["cmdstat_set"]["calls"] > 0)
        self.assertEqual(info["db0"]["keys"], 1)
        self.assertEqual(set(self.db.info("keyspace")), {"db0"})

    def test_settings_are_changed(self):
        before = self.db.config_get("slowlog-max-len")
        self.assertTrue(self.db.config_set("slowlog-max-len", 77))
        self.assertEqual(self.db.config_get("slowlog-max-len"), {"slowlog-max-len": "77"})
        self.assertTrue(self.db.config_set("slowlog-max-len", before["slowlog-max-len"]))

    def test_slow_commands_are_logged(self):
        before = self.db.config_get("slowlog-log-slower-than")["slowlog-log-slower-than"]
        self.db.config_set("slowlog-log-slower-than", 0)
        self.db.slowlog_reset()
        self.db.set("slow", "x")
        self.db.config_set("slowlog-log-slower-than", before)
        logged = [entry["command"] for entry in self.db.slowlog_get(10)]
        self.assertIn(b"SET slow x", logged)

    def test_a_password(self):
        self.db.config_set("requirepass", "secret")
        try:
            with self.assertRaises(redis.AuthenticationError):
                self.connect().ping()
            with self.assertRaises(redis.AuthenticationError):
                self.connect(password="wrong").ping()
            self.assertTrue(self.connect(password="secret").ping())
            self.assertTrue(self.connect(username="default", password="secret").ping())
        finally:
            self.db.config_set("requirepass", "")

    def test_keys_are_described(self):
        self.db.mset({"n": 12, "text": "abc", "long": "x" * 100})
        found = [self.db.object("ENCODING", key) for key in ["n", "text", "long"]]
        self.assertEqual(found, [b"int", b"embstr", b"raw"])
        self.assertTrue(self.db.memory_usage("long") > 100)
        self.assertIsNone(self.db.memory_usage("missing"))
        payload = self.db.dump("long")
        self.assertTrue(self.db.restore("copy", 0, payload))
        self.assertEqual(self.db.get("copy"), b"x" * 100)

    def test_settings(self):
        self.assertEqual(self.db.config_get("maxclients"), {"maxclients": "10000"})
        found = self.db.config_get("appendfsync", "maxc*")
        self.assertEqual(set(found), {"appendfsync", "maxclients"})
        self.assertEqual(self.db.config_get("no-such-setting"), {})
        with self.assertRaisesRegex(redis.ResponseError, "^Unknown option or number of arg"):
            self.db.config_set("no-such-setting", 1)

    def test_commands(self):
        get = self.db.execute_command("COMMAND", "INFO", "get")["get"]
        self.assertEqual([get["name"], get["arity"]], ["get", 2])
        self.assertIn("readonly", get["flags"])
        keys = ["first_key_pos", "last_key_pos", "step_count"]
        self.assertEqual([get[key] for key in keys], [1, 1, 1])
        table = self.db.command()
        self.assertEqual(self.db.command_count(), len(table))
        self.assertIn(b"mset", self.db.command_list())
        text = self.connect(decode_responses=True)
        self.assertEqual(text.command_getkeys("MSET", "a", 1, "b", 2), ["a", "b"])

    def test_time(self):
        seconds, micros = self.db.time()
        self.assertTrue(seconds > 1_600_000_000 and 0 <= micros < 1_000_000)
