//! Wires reactor, engine and commands into a server.
