"""redis-cli: as a command in scripts, as a tool with modes of its own, and at a terminal."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import unittest

PLACE = ["-h", os.environ["INTEROP_HOST"], "-p", os.environ["INTEROP_PORT"]]
PATIENCE = 120
ALL_BYTES = bytes(range(256))


def cli(*words, input=b"", check=True):
    """What redis-cli prints when it is run with `words` and `input`."""
    command = ["redis-cli", *PLACE, *words]
    done = subprocess.run(command, input=input, capture_output=True, timeout=PATIENCE, check=check)
    return done.stdout


class Commands(unittest.TestCase):
    def setUp(self):
        cli("FLUSHALL")

    def test_replies_in_each_form(self):
        self.assertEqual(cli("MSET", "a", "1", "b", 'say "b"'), b"OK\n")
        self.assertEqual(cli("MGET", "a", "b", "c"), b'1\nsay "b"\n\n')
        self.assertEqual(
            cli("--no-raw", "MGET", "a", "b", "c"), b'1) "1"\n2) "say \\"b\\""\n3) (nil)\n'
        )
        self.assertEqual(cli("--csv", "MGET", "a", "b", "c"), b'"1","say \\"b\\"",NULL\n')
        self.assertEqual(json.loads(cli("-3", "--json", "MGET", "a", "c")), ["1", None])
        self.assertEqual(cli("-d", ";", "MGET", "a", "a"), b"1;1\n")
        self.assertEqual(cli("--no-raw", "INCR", "a"), b"(integer) 2\n")

    def test_resp3(self):
        self.assertEqual(cli("-3", "--no-raw", "GET", "missing"), b"(nil)\n")
        settings = cli("-3", "--no-raw", "CONFIG", "GET", "maxclients")
        self.assertEqual(settings, b'1# "maxclients" => "10000"\n')
        hello = json.loads(cli("-3", "--json", "HELLO"))
        self.assertEqual([hello["proto"], hello["modules"]], [3, []])

    def test_errors(self):
        failed = subprocess.run(["redis-cli", *PLACE, "-e", "GET"], capture_output=True)
        self.assertNotEqual(failed.returncode, 0)
        self.assertEqual(
            cli("GET"), b"ERR wrong number of arguments for 'get' command\n\n"
        )

    def test_the_last_word_from_standard_input(self):
        self.assertEqual(cli("-x", "SET", "bytes", input=ALL_BYTES), b"OK\n")
        self.assertEqual(cli("GET", "bytes"), ALL_BYTES + b"\n")
        self.assertEqual(cli("-X", "tag", "SET", "bytes", "tag", "EX", "9", input=b"x"), b"OK\n")
        self.assertEqual(cli("-x", "SET", "empty"), b"OK\n")
        self.assertEqual(cli("STRLEN", "empty"), b"0\n")

    def test_lines_from_standard_input(self):
        lines = b"SET a 1\nINCR a\n\nGET a\nSET q \"two words\\x00\"\nGET q\n"
        self.assertEqual(cli(input=lines), b"OK\n2\n2\nOK\ntwo words\x00\n")

    def test_repeating(self):
        self.assertEqual(cli("-r", "3", "-i", "0.001", "INCR", "n"), b"1\n2\n3\n")


class Modes(unittest.TestCase):
    def setUp(self):
        cli("FLUSHALL")

    def fill(self, count):
        lines = "".join(f"SET key:{i} {'v' * (i % 100 + 1)}\r\n" for i in range(count))
        return cli("--pipe", input=lines.encode())

    def test_pipe(self):
        self.assertRegex(self.fill(5_000), rb"errors: 0, replies: 5000\n$")
        words = [b"SET", ALL_BYTES, ALL_BYTES]
        resp = b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self.assertRegex(cli("--pipe", input=resp * 1_000), rb"errors: 0, replies: 1000\n$")
        failed = cli("--pipe", input=b"INCR key:1\r\nSET a 1\r\n", check=False)
        self.assertRegex(failed, rb"errors: 1, replies: 2\n$")

    def test_scan(self):
        self.fill(500)
        self.assertEqual(len(set(cli("--scan").split())), 500)
        self.assertEqual(len(cli("--scan", "--pattern", "key:1?").split()), 10)

    def test_the_biggest_keys(self):
        self.fill(200)
        cli("SET", "big", "x" * 1_000)
        report = cli("--bigkeys").decode()
        self.assertIn("Sampled 201 keys in the keyspace!", report)
        self.assertIn("Biggest string found '\"big\"' has 1000 bytes", report)
        self.assertIn("201 strings with", report)

    def test_the_keys_with_most_memory(self):
        self.fill(200)
        cli("SET", "big", "x" * 5_000)
        report = cli("--memkeys").decode()
        self.assertIn("Sampled 201 keys in the keyspace!", report)
        self.assertRegex(report, "Biggest string found '\"big\"' has 5[0-9]{3} bytes")

    def test_latency(self):
        least, most, mean, samples = cli("--raw", "--latency", "-i", "0.2").split()
        self.assertTrue(int(least) <= float(mean) <= int(most) and int(samples) > 0)

    def test_statistics(self):
        """One line a period, until it is stopped."""
        command = ["redis-cli", *PLACE, "--stat", "-i", "0.05"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
            head = [running.stdout.readline() for _ in range(4)]
            running.kill()
        self.assertIn(b"keys", head[1])
        self.assertRegex(head[3], rb"^0 +\d")


class Terminal(unittest.TestCase):
    """What a person sees who types."""

    def setUp(self):
        cli("FLUSHALL")
        environment = os.environ | {"TERM": "xterm", "REDISCLI_HISTFILE": "/dev/null"}
        pid, self.screen = pty.fork()
        if pid == 0:
            # Else redis-cli asks the terminal for its size, and nobody answers.
            size = struct.pack("HHHH", 24, 120, 0, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            os.execvpe("redis-cli", ["redis-cli", *PLACE], environment)
        self.addCleanup(os.waitpid, pid, 0)
        self.addCleanup(os.close, self.screen)
        self.seen = b""
        self.prompt = f"{PLACE[1]}:{PLACE[3]}> ".encode()
        self.expect(re.escape(self.prompt))

    def expect(self, pattern):
        """Reads on until `pattern` is on the screen, behind what was found before."""
        while not (found := re.search(pattern, self.seen, re.DOTALL)):
            ready, _, _ = select.select([self.screen], [], [], PATIENCE)
            self.assertTrue(ready, f"not seen: {pattern} in {self.seen}")
            self.seen += os.read(self.screen, 4_096)
        self.seen = self.seen[found.end() :]

    def type(self, text):
        os.write(self.screen, text)

    def enter(self, line, answer):
        self.type(line + b"\r")
        self.expect(rb"\n" + answer + rb"\r\n")
        # What is typed before redis-cli asks again is lost.
        self.expect(re.escape(self.prompt))

    def test_typing(self):
        self.enter(b"set color blue", rb"OK")
        self.enter(b"get color", rb'"blue"')
        self.enter(b"incr color", rb"\(error\) ERR value is not an integer or out of range")
        self.enter(b"get nothing", rb"\(nil\)")

    def test_hints_and_help(self):
        """What words come next, TAB, and HELP: all from COMMAND DOCS, where the server has it."""
        self.type(b"getrange k")
        self.expect(rb"start end")
        self.type(b"\x15strl\t")
        self.expect(rb"(?i)strlen")
        self.type(b"\x15help getdel\r")
        # Colours are between the words.
        self.expect(rb"GETDEL.{0,16}key")
        self.expect(rb"summary:")


if __name__ == "__main__":
    unittest.main()
