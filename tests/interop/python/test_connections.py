"""Connections: how they begin, what they are called, how they end, and what errors look like."""

import threading

import redis
from common import HOST, PORT, InteropTest, control, is_kvs, needs_control, over_wires
from redis.backoff import ConstantBackoff
from redis.retry import Retry


@over_wires
class Connections(InteropTest):
    def test_the_greeting_is_typed(self):
        greeting = self.db.execute_command("HELLO", 3 if self.is_resp3 else 2)
        if self.is_resp3:
            self.assertIsInstance(greeting, dict)
        else:
            greeting = dict(zip(greeting[::2], greeting[1::2]))
        self.assertEqual(greeting[b"proto"], 3 if self.is_resp3 else 2)
        self.assertEqual([greeting[b"mode"], greeting[b"role"]], [b"standalone", b"master"])
        self.assertEqual(greeting[b"modules"], [])
        self.assertIsInstance(greeting[b"id"], int)

    def test_pings(self):
        self.assertTrue(self.db.ping())
        self.assertEqual(self.db.echo(b"\x00\xff"), b"\x00\xff")
        checked = self.connect(health_check_interval=1)
        self.assertTrue(checked.ping())

    def test_names(self):
        named = self.connect(client_name="interop-named", decode_responses=True)
        self.assertEqual(named.client_getname(), "interop-named")
        self.assertIsNone(self.db.client_getname())
        self.assertTrue(named.client_setname("another"))
        self.assertEqual(named.client_getname(), "another")
        with self.assertRaisesRegex(redis.ResponseError, "Client names cannot contain spaces"):
            self.db.client_setname("two words")

    def test_the_list_of_clients_is_understood(self):
        named = self.connect(client_name="interop-listed")
        own = named.client_id()
        found = [c for c in self.db.client_list() if c["name"] == "interop-listed"]
        self.assertEqual([c["id"] for c in found], [str(own)])
        self.assertEqual(found[0]["db"], "0")
        self.assertEqual(found[0]["addr"].split(":")[0], HOST)
        self.assertEqual(found[0]["laddr"], f"{HOST}:{PORT}")
        for field in ["age", "idle", "flags", "cmd", "user", "resp", "fd", "sub", "qbuf", "omem"]:
            self.assertIn(field, found[0])
        info = named.client_info()
        self.assertEqual([info["id"], info["name"]], [own, "interop-listed"])
        self.assertEqual([c["id"] for c in self.db.client_list(client_id=[own])], [str(own)])

    def test_a_pool_is_shared_by_threads(self):
        pool = redis.BlockingConnectionPool(max_connections=4, **self.options())
        db = redis.Redis.from_pool(pool)
        self.addCleanup(db.close)
        failures = []

        def count():
            try:
                for _ in range(50):
                    db.incr("shared")
                    if db.get("shared") is None:
                        failures.append("a counter vanished")
            except Exception as failure:
                failures.append(failure)

        threads = [threading.Thread(target=count) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(db.get("shared"), b"800")

    def test_many_connections(self):
        clients = [self.connect() for _ in range(200)]
        for i, client in enumerate(clients):
            client.set(f"client:{i}", i)
        self.assertEqual(len({client.client_id() for client in clients}), 200)
        self.assertEqual(self.db.dbsize(), 200)

    def test_errors_have_their_classes(self):
        for words, error, text in [
            (["GET"], redis.ResponseError, "^wrong number of arguments for 'get' command$"),
            (["NOSUCH", "x"], redis.ResponseError, "^unknown command 'NOSUCH', with args begin"),
            (["SET", "a", "b", "c"], redis.ResponseError, "^syntax error$"),
            (["SET", "a", "b", "EX", "x"], redis.ResponseError, "^value is not an integer"),
            (["CONFIG", "NOSUCH"], redis.ResponseError, "^unknown subcommand 'NOSUCH'. Try CONFIG"),
            (["HELLO", "9"], redis.ResponseError, "^NOPROTO unsupported protocol version$"),
            (["AUTH", "nobody", "pw"], redis.AuthenticationError, "^invalid username-password"),
        ]:
            with self.subTest(words), self.assertRaisesRegex(error, text):
                self.db.execute_command(*words)
        self.assertTrue(self.db.ping())

    def test_a_client_is_killed(self):
        victim = self.connect(client_name="victim")
        number = victim.client_id()
        self.assertEqual(self.db.client_kill_filter(_id=number), 1)
        # The library finds its connection closed, and makes another.
        self.assertNotEqual(victim.client_id(), number)

    def test_a_type_that_does_not_exist_is_an_unknown_command(self):
        if not is_kvs():
            self.skipTest("Redis has lists")
        for call in [lambda: self.db.lpush("l", 1), lambda: self.db.hset("h", "f", 1)]:
            with self.assertRaisesRegex(redis.ResponseError, "^unknown command"):
                call()

    @needs_control
    def test_a_killed_server_is_found_again_with_what_it_acknowledged(self):
        retry = Retry(ConstantBackoff(0.05), 200)
        db = self.connect(retry=retry, retry_on_error=[redis.ConnectionError, ConnectionError])
        once = self.connect(retry=Retry(ConstantBackoff(0), 0))
        for i in range(200):
            self.assertTrue(db.set(f"acknowledged:{i}", i))
        self.assertTrue(once.ping())
        control("kill")
        with self.assertRaises(redis.ConnectionError):
            once.ping()
        restarted = threading.Thread(target=control, args=["again"])
        restarted.start()
        # Tries until the server is there again; the same client, unasked.
        self.assertEqual(db.get("acknowledged:199"), b"199")
        restarted.join()
        keys = [f"acknowledged:{i}" for i in range(200)]
        self.assertEqual(db.mget(keys), [b"%d" % i for i in range(200)])
        self.assertTrue(once.ping())
