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
            "total_commands_processed",
        ]:  # fmt: skip
            self.assertIn(field, info)
        self.assertIsInstance(info["uptime_in_seconds"], int)
        self.assertEqual(info["db0"]["keys"], 1)
        self.assertEqual(set(self.db.info("keyspace")), {"db0"})

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
