//! The event loops: sockets, buffers, timers, mailboxes; knows no keys.
