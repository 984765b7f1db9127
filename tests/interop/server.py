#!/usr/bin/env python3
"""A server to test against, kvs or Redis, in a directory of its own.

The runner starts one for each suite. A test program that wants to see its server die, or start
again on the same data and port, runs this file with `kill`, `stop` or `again`; it finds the server
by INTEROP_DIR. So it is the same for test programs in every language, and for both servers.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HOST = "127.0.0.1"
# What should happen at once is given up after so many seconds: long, as machines may be busy.
PATIENCE = 60
PAUSE = 0.01


def kvs(directory, port):
    return [os.environ["INTEROP_KVS"], "--addr", f"{HOST}:{port}", "--dir", directory / "data"]


def redis(directory, port):
    """As durable as kvs: every write is in the log, and synced, before it is acknowledged."""
    flags = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    place = ["--bind", HOST, "--port", str(port), "--dir", directory / "data"]
    return ["redis-server", *place, *flags]


COMMANDS = {"kvs": kvs, "redis": redis}


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def is_ready(port):
    """Whether it answers, and has its data."""
    try:
        with socket.create_connection((HOST, port), PATIENCE) as connection:
            connection.sendall(b"EXISTS ready\r\n")
            return connection.recv(1) == b":"
    except OSError:
        return False


def runs(pid):
    """Whether the process is there and not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(what, condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"waited in vain for {what}")
        time.sleep(PAUSE)


class Server:
    """What `directory` knows of it: its kind, port, process, log and data."""

    def __init__(self, directory):
        self.directory = Path(directory)

    def read(self, name):
        return (self.directory / name).read_text()

    def log(self):
        return (self.directory / "log").read_text(errors="replace")

    def start(self, kind):
        """For the first time, on a port that is free. Returns the port."""
        (self.directory / "data").mkdir(parents=True)
        (self.directory / "kind").write_text(kind)
        # Somebody may take the port before the server does.
        for _ in range(5):
            port = free_port()
            (self.directory / "port").write_text(str(port))
            if self.launch():
                return port
        sys.exit(f"{kind} does not start:\n{self.log()}")

    def again(self):
        """On the data and the port that it had."""
        # The port may be in use for a moment as the near end of somebody's connection.
        wait_for("the server to start again", self.launch)

    def launch(self):
        kind, port = self.read("kind"), int(self.read("port"))
        with open(self.directory / "log", "ab") as log:
            child = subprocess.Popen(
                COMMANDS[kind](self.directory, port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.directory / "pid").write_text(str(child.pid))
        wait_for("an answer", lambda: child.poll() is not None or is_ready(port))
        return child.poll() is None

    def end(self, how):
        pid = int(self.read("pid"))
        if runs(pid):
            os.kill(pid, how)
        wait_for("the end of the server", lambda: not runs(pid))

    def kill(self):
        """As a crash does, between two instructions."""
        self.end(signal.SIGKILL)

    def stop(self):
        self.end(signal.SIGTERM)


def main():
    steps = {"kill": Server.kill, "stop": Server.stop, "again": Server.again}
    if len(sys.argv) != 2 or sys.argv[1] not in steps:
        sys.exit(f"usage: {sys.argv[0]} kill|stop|again, with INTEROP_DIR")
    steps[sys.argv[1]](Server(os.environ["INTEROP_DIR"]))


if __name__ == "__main__":
    main()
