"""Strings of all kinds and sizes come back as they were sent."""

import redis
from common import ALL_BYTES, MIB, InteropTest, over_wires

# Commands in one pipeline, and keys in one command.
MANY = 10_000


@over_wires
class Values(InteropTest):
    def test_keys_and_values_hold_any_byte(self):
        single = [bytes([byte]) for byte in ALL_BYTES]
        self.db.mset({b"one" + byte: byte for byte in single})
        for byte in single:
            self.assertEqual(self.db.get(b"one" + byte), byte)
        self.db.set(ALL_BYTES, ALL_BYTES[::-1])
        self.assertEqual(self.db.get(ALL_BYTES), ALL_BYTES[::-1])
        self.assertEqual(self.db.strlen(ALL_BYTES), 256)
        self.assertEqual(self.db.getrange(ALL_BYTES, 0, 1), b"\xff\xfe")
        self.assertEqual(self.db.dbsize(), 257)
        self.assertEqual(self.db.append(ALL_BYTES, ALL_BYTES), 512)
        self.assertEqual(self.db.get(ALL_BYTES), ALL_BYTES[::-1] + ALL_BYTES)

    def test_line_ends_and_reply_marks_are_bytes_like_others(self):
        for value in [b"\r\n", b"$-1\r\n", b"*0\r\n", b"_\r\n", b"\r\n.\r\n", b"+OK\r\n-ERR\r\n"]:
            self.db.set(value, value)
            self.assertEqual(self.db.get(value), value)

    def test_an_empty_value_is_not_a_missing_one(self):
        self.assertIsNone(self.db.get("empty"))
        self.assertTrue(self.db.set("empty", b""))
        self.assertEqual(self.db.get("empty"), b"")
        self.assertEqual(self.db.mget("empty", "missing"), [b"", None])
        self.assertEqual(self.db.exists("empty"), 1)
        self.assertTrue(self.db.set("", b"the empty key"))
        self.assertEqual(self.db.get(""), b"the empty key")

    def test_text_is_coded_both_ways(self):
        text = self.connect(decode_responses=True)
        text.set("grüße", "żółw \U0001f422")
        self.assertEqual(text.get("grüße"), "żółw \U0001f422")
        self.assertEqual(self.db.get("grüße".encode()), "żółw \U0001f422".encode())
        self.assertEqual(text.keys(), ["grüße"])

    def test_a_value_of_one_mebibyte(self):
        value = ALL_BYTES * (MIB // 256)
        self.db.set("large", value)
        self.assertEqual(self.db.get("large"), value)
        self.assertEqual(self.db.getrange("large", MIB - 3, -1), b"\xfd\xfe\xff")

    def test_a_value_of_64_mebibytes(self):
        value = ALL_BYTES * (64 * MIB // 256)
        self.db.set("huge", value)
        self.assertEqual(self.db.strlen("huge"), 64 * MIB)
        self.assertTrue(self.db.get("huge") == value, "64 MiB came back changed")

    def test_numbers(self):
        self.assertEqual(self.db.incr("n"), 1)
        self.assertEqual(self.db.incrby("n", 41), 42)
        self.assertEqual(self.db.decr("n", 2), 40)
        self.assertEqual(self.db.get("n"), b"40")
        self.assertEqual(self.db.incrbyfloat("f", 0.5), 0.5)
        self.assertEqual(self.db.incrbyfloat("f", "1e2"), 100.5)
        with self.assertRaisesRegex(redis.ResponseError, "^value is not an integer or out of range$"):
            self.db.incr("f")
        self.db.set("most", 2**63 - 1)
        with self.assertRaisesRegex(redis.ResponseError, "increment or decrement would overflow"):
            self.db.incr("most")

    def test_the_options_of_set(self):
        self.assertTrue(self.db.set("k", 1, nx=True))
        self.assertIsNone(self.db.set("k", 2, nx=True))
        self.assertIsNone(self.db.set("other", 2, xx=True))
        self.assertEqual(self.db.set("k", 2, xx=True, get=True), b"1")
        self.assertIsNone(self.db.set("new", 2, get=True))
        self.assertTrue(self.db.set("k", 3, ex=100))
        self.assertTrue(self.db.set("k", 4, keepttl=True))
        self.assertTrue(0 < self.db.ttl("k") <= 100)
        self.assertEqual(self.db.getset("k", 5), b"4")
        self.assertEqual(self.db.ttl("k"), -1)
        self.assertEqual(self.db.getdel("k"), b"5")
        self.assertIsNone(self.db.getdel("k"))
        with self.assertRaisesRegex(redis.ResponseError, "invalid expire time in 'set' command"):
            self.db.set("k", 1, ex=0)

    def test_many_keys_in_one_command(self):
        pairs = {f"key:{i}".encode(): f"value {i}".encode() for i in range(MANY)}
        self.assertTrue(self.db.mset(pairs))
        self.assertEqual(self.db.mget(list(pairs)), list(pairs.values()))
        self.assertFalse(self.db.msetnx({"new": 1, "key:0": 2}))
        self.assertEqual(self.db.exists("new"), 0)
        self.assertEqual(self.db.exists(*pairs), MANY)
        self.assertEqual(self.db.delete(*pairs), MANY)
        self.assertEqual(self.db.dbsize(), 0)

    def test_many_commands_in_one_pipeline(self):
        with self.db.pipeline(transaction=False) as pipe:
            for i in range(MANY // 2):
                pipe.set(f"p{i}", i)
            for i in range(MANY // 2):
                pipe.get(f"p{i}")
            replies = pipe.execute()
        self.assertEqual(replies[: MANY // 2], [True] * (MANY // 2))
        self.assertEqual(replies[MANY // 2 :], [b"%d" % i for i in range(MANY // 2)])

    def test_a_pipeline_reads_what_it_has_just_written(self):
        with self.db.pipeline(transaction=False) as pipe:
            for i in range(100):
                pipe.set(f"p{i}", i).get(f"p{i}").incr("count").get("missing")
            replies = pipe.execute()
        for i in range(100):
            self.assertEqual(replies[4 * i : 4 * i + 4], [True, b"%d" % i, i + 1, None])

    def test_an_error_in_a_pipeline_is_at_its_place(self):
        with self.db.pipeline(transaction=False) as pipe:
            pipe.set("text", "abc").incr("text").get("text").execute_command("SETT", "a", "b")
            replies = pipe.execute(raise_on_error=False)
        self.assertEqual([replies[0], replies[2]], [True, b"abc"])
        self.assertIsInstance(replies[1], redis.ResponseError)
        self.assertIn("unknown command", str(replies[3]))
        self.assertEqual(self.db.get("text"), b"abc")

    def test_bits(self):
        self.assertEqual(self.db.setbit("bits", 7, 1), 0)
        self.assertEqual(self.db.setbit("bits", 7, 1), 1)
        self.assertEqual([self.db.getbit("bits", 7), self.db.bitcount("bits")], [1, 1])
        self.db.set("other", b"\xff\x0f")
        self.assertEqual(self.db.bitop("XOR", "dest", "bits", "other"), 2)
        self.assertEqual(self.db.get("dest"), b"\xfe\x0f")
        self.assertEqual(self.db.bitpos("dest", 0), 7)
        field = self.db.bitfield("field")
        self.assertEqual(field.set("u8", 0, 200).incrby("u8", 0, 100).get("u8", 0).execute(), [0, 44, 44])

    def test_the_longest_common_subsequence(self):
        self.db.mset({"a": "ohmytext", "b": "mynewtext"})
        self.assertEqual(self.db.lcs("a", "b"), b"mytext")
        self.assertEqual(self.db.lcs("a", "b", len=True), 6)
