"""redis-benchmark: its tests of commands that are not of lists, sets, hashes or sorted sets."""

import os
import subprocess
import unittest

PLACE = ["-h", os.environ["INTEROP_HOST"], "-p", os.environ["INTEROP_PORT"]]
PATIENCE = 120


def benchmark(*flags):
    """Its report: a line of figures for each test. It fails by itself on an error reply."""
    command = ["redis-benchmark", *PLACE, "--csv", *flags]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, text=True)
    return done.stdout + done.stderr


class Benchmark(unittest.TestCase):
    def check(self, tests, *flags):
        report = benchmark("-n", "2000", "-t", ",".join(tests), *flags)
        lines = [line for line in report.splitlines() if not line.startswith('"test"')]
        names = [line.split(",")[0].strip('"').split()[0].lower() for line in lines]
        self.assertEqual(sorted(names), sorted(tests), report)
        rates = [float(line.split(",")[1].strip('"')) for line in lines]
        self.assertTrue(all(rate > 0 for rate in rates), report)

    def test_its_own_tests(self):
        self.check(["ping_inline", "ping_mbulk", "set", "get", "incr", "mset"])

    def test_pipelines_and_random_keys(self):
        self.check(["set", "get", "incr"], "-P", "16", "-r", "1000", "-d", "1000", "-c", "20")

    def test_resp3_and_threads(self):
        self.check(["set", "get"], "-3", "--threads", "2")

    def test_a_command_of_ones_own(self):
        report = benchmark("-n", "1000", "-r", "100", "GETEX", "key:__rand_int__", "EX", "100")
        self.assertIn("GETEX", report)
        self.assertNotIn("ERR", report)


if __name__ == "__main__":
    unittest.main()
