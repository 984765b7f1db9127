//! The blocking client that kvs-client, the tests and the benchmarks share.
