//! What a server tells of itself: INFO, SLOWLOG, LATENCY, and the bound on its memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use kvs::client::Client;
use kvs::config::DebugCommand;
use kvs::protocol::Value;
use serving::{Running, figure, info, ok, says, text, wait_for};

/// The same whether loops answer reads themselves or leave them to workers.
fn commands_are_counted(loop_reads: bool) {
    let server = Running::start(|config| (config.loops, config.loop_reads) = (2, loop_reads));
    let (mut one, mut other) = (server.client(), server.client());
    assert_eq!(says(&mut one, "config resetstat"), ok());
    for client in [&mut one, &mut other] {
        assert_eq!(says(client, "set k v"), ok());
        for key in ["k", "k", "nokey"] {
            says(client, &format!("get {key}"));
        }
        assert!(matches!(says(client, "incr k"), Value::Error(_)));
        assert!(matches!(says(client, "get"), Value::Error(_)));
        assert!(matches!(says(client, "nosuch"), Value::Error(_)));
        assert!(matches!(says(client, "config get"), Value::Error(_)));
        assert!(matches!(says(client, "hello 4"), Value::Error(_)));
    }
    let stats = info(&mut one, "commandstats");
    let starts = |name: &str, with: &str, ends: &str| {
        let value = &stats[&format!("cmdstat_{name}")];
        assert!(value.starts_with(with) && value.ends_with(ends), "{name}: {value}");
    };
    starts("set", "calls=2,usec=", ",rejected_calls=0,failed_calls=0");
    starts("get", "calls=6,usec=", ",rejected_calls=2,failed_calls=0");
    starts("incr", "calls=2,usec=", ",rejected_calls=0,failed_calls=2");
    starts("config|get", "calls=0,usec=0,usec_per_call=0.00", ",rejected_calls=2,failed_calls=0");
    starts("config|resetstat", "calls=1", "failed_calls=0");
    assert!(!stats.contains_key("cmdstat_mget"));

    let errors = info(&mut one, "errorstats");
    assert_eq!(errors["errorstat_ERR"], "count=8");
    assert_eq!(errors["errorstat_NOPROTO"], "count=2");
    let stats = info(&mut one, "stats");
    assert_eq!((&*stats["keyspace_hits"], &*stats["keyspace_misses"]), ("4", "2"));
    assert_eq!(stats["total_error_replies"], "10");

    let latency = info(&mut one, "latencystats");
    assert!(latency["latency_percentiles_usec_get"].starts_with("p50="), "{latency:?}");
    let histogram = says(&mut one, "latency histogram get config nosuch");
    let Value::Array(rows) = histogram else { panic!("{histogram:?}") };
    let [get, figures, resetstat, _] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!(get, &Value::Bulk(b"get".into()));
    assert_eq!(resetstat, &Value::Bulk(b"config|resetstat".into()));
    let Value::Array(figures) = figures else { panic!("{figures:?}") };
    assert_eq!(figures[1], Value::Integer(6));
    let Value::Array(buckets) = &figures[3] else { panic!("{figures:?}") };
    assert_eq!(buckets.last(), Some(&Value::Integer(6)), "all were timed: {buckets:?}");

    let set = ["CONFIG", "SET", "latency-tracking-info-percentiles", "0.0 50 99.9"];
    assert_eq!(one.call(&set).unwrap(), ok());
    assert_eq!(says(&mut one, "config set latency-tracking no"), ok());
    assert_eq!(says(&mut one, "ttl untimed"), Value::Integer(-2));
    let latency = info(&mut one, "latencystats");
    let get = &latency["latency_percentiles_usec_get"];
    let names = get.split(',').map(|part| part.split('=').next().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["p0", "p50", "p99.9"]);
    assert!(!latency.contains_key("latency_percentiles_usec_ttl"), "nothing was measured");
    assert_eq!(says(&mut one, "config set latency-tracking yes"), ok());

    assert_eq!(says(&mut other, "config resetstat"), ok());
    let stats = info(&mut one, "everything");
    assert!(!stats.contains_key("cmdstat_get") && !stats.contains_key("errorstat_ERR"));
    assert_eq!((&*stats["keyspace_hits"], &*stats["total_error_replies"]), ("0", "0"));
}

/// Not the mean since the start, nor since somebody asked before.
#[test]
fn rates_are_of_the_last_moment() {
    let server = Running::start(|_| {});
    let mut client = server.client();
    let names = ["ops_per_sec", "input_kbps", "output_kbps"].map(|n| format!("instantaneous_{n}"));
    let rates = |client: &mut Client| {
        let stats = info(client, "stats");
        names.clone().map(|name| stats[&name].parse::<f64>().unwrap())
    };
    wait_for("high rates", || {
        (0..1000).for_each(|_| client.send(&["PING"]));
        client.flush().unwrap();
        (0..1000).for_each(|_| drop(client.receive().unwrap()));
        let [commands, bytes_in, bytes_out] = rates(&mut client);
        (commands > 1000.0 && bytes_in > bytes_out && bytes_out > 1.0).then_some(())
    });
    // Asking is all that goes on now.
    wait_for("low rates", || (rates(&mut client)[0] < 1000.0).then_some(()));
}

#[test]
fn commands_are_counted_where_loops_read() {
    commands_are_counted(true);
}

#[test]
fn commands_are_counted_where_workers_read() {
    commands_are_counted(false);
}

/// Of many calls some are timed, and they stand for all.
#[test]
fn calls_are_counted_exactly_and_timed_by_samples() {
    const CALLS: usize = 20_000;
    let server = Running::start(|_| {});
    let mut client = server.client();
    for _ in 0..CALLS / 1000 {
        (0..1000).for_each(|_| client.send(&["GET", "k"]));
        client.flush().unwrap();
        (0..1000).for_each(|_| assert_eq!(client.receive().unwrap(), Value::Null));
    }
    let stats = info(&mut client, "commandstats");
    // One more was sent to see whether the store is open.
    let calls = format!("calls={},", CALLS + 1);
    assert!(stats["cmdstat_get"].starts_with(&calls), "{}", stats["cmdstat_get"]);
    let Value::Array(rows) = says(&mut client, "latency histogram get") else { panic!() };
    let Value::Array(figures) = &rows[1] else { panic!("{rows:?}") };
    let Value::Array(buckets) = &figures[3] else { panic!("{figures:?}") };
    let Some(Value::Integer(counted)) = buckets.last() else { panic!("{buckets:?}") };
    assert!((*counted - CALLS as i64).abs() <= 128, "{counted}");
    // Counted anew, the first ones are all timed again.
    assert_eq!(says(&mut client, "config resetstat"), ok());
    says(&mut client, "get k");
    let Value::Array(rows) = says(&mut client, "latency histogram get") else { panic!() };
    let Some(Value::Array(figures)) = rows.get(1) else { panic!("{rows:?}") };
    assert!(matches!(&figures[3], Value::Array(buckets) if !buckets.is_empty()), "{figures:?}");
}

/// The words of an entry of the slow log.
fn slow_words(entry: &Value) -> String {
    let Value::Array(fields) = entry else { panic!("{entry:?}") };
    assert_eq!(fields.len(), 6);
    let Value::Array(words) = &fields[3] else { panic!("{fields:?}") };
    let words: Vec<String> = words.iter().map(|word| text(word.clone())).collect();
    words.join(" ")
}

#[test]
fn slow_commands_are_logged_with_their_client() {
    let server = Running::start(|_| {});
    let mut client = server.client();
    assert_eq!(says(&mut client, "client setname me"), ok());
    assert_eq!(says(&mut client, "slowlog len"), Value::Integer(0));
    assert_eq!(says(&mut client, "config set slowlog-log-slower-than 0"), ok());
    // On the loop, on the writer, on a read worker.
    for line in ["get a", "set a 1", "keys *", "config set requirepass secret", "auth secret"] {
        says(&mut client, line);
    }
    let Value::Array(entries) = says(&mut client, "slowlog get") else { panic!("SLOWLOG") };
    let by_me = |entry: &&Value| matches!(entry, Value::Array(fields) if fields[5] == Value::Bulk(b"me".into()));
    let logged: Vec<String> = entries.iter().filter(by_me).map(slow_words).collect();
    assert_eq!(
        logged,
        [
            "auth (redacted)",
            "config set requirepass (redacted)",
            "keys *",
            "set a 1",
            "get a",
            "config set slowlog-log-slower-than 0",
        ]
    );
    let Value::Array(fields) = &entries[5] else { panic!() };
    assert_eq!(fields[0], Value::Integer(0), "the first one's number");
    let Value::Array(newest) = says(&mut client, "slowlog get 2") else { panic!() };
    assert_eq!(newest.len(), 2);
    assert_eq!(says(&mut client, "config set slowlog-max-len 3"), ok());
    says(&mut client, "get a");
    assert_eq!(says(&mut client, "slowlog len"), Value::Integer(3));
    assert_eq!(says(&mut client, "config set slowlog-log-slower-than -1"), ok());
    assert_eq!(says(&mut client, "slowlog reset"), ok());
    says(&mut client, "get a");
    assert_eq!(says(&mut client, "slowlog len"), Value::Integer(0));
}

/// What the writer runs, what the loop runs, and what fails; none of it where nothing was run.
#[test]
fn a_transaction_is_counted_command_by_command() {
    let server = Running::start(|_| {});
    let (mut client, mut other) = (server.client(), server.client());
    assert_eq!(says(&mut client, "config set slowlog-log-slower-than 0"), ok());
    assert_eq!(says(&mut client, "config resetstat"), ok());
    assert_eq!(says(&mut client, "slowlog reset"), ok());
    for line in ["multi", "set a x", "incr a", "echo e", "get a", "auth"] {
        says(&mut client, line);
    }
    // The last one has made it void.
    assert!(matches!(says(&mut client, "exec"), Value::Error(_)));
    assert_eq!(says(&mut client, "watch a"), ok());
    assert_eq!(says(&mut other, "set a y"), ok());
    for line in ["multi", "del a"] {
        says(&mut client, line);
    }
    assert_eq!(says(&mut client, "exec"), Value::Null, "a was changed");
    for line in ["multi", "set a x", "incr a", "echo e", "get a"] {
        says(&mut client, line);
    }
    assert!(matches!(says(&mut client, "exec"), Value::Array(parts) if parts.len() == 4));
    let stats = info(&mut client, "commandstats");
    let calls = |name: &str| stats.get(&format!("cmdstat_{name}")).map(String::as_str);
    for (name, count) in [("set", 2), ("incr", 1), ("echo", 1), ("get", 1), ("exec", 3)] {
        let figures = calls(name).unwrap();
        assert!(figures.starts_with(&format!("calls={count},")), "{name}: {figures}");
    }
    assert!(calls("incr").unwrap().ends_with("rejected_calls=0,failed_calls=1"));
    assert!(calls("exec").unwrap().ends_with("rejected_calls=0,failed_calls=1"));
    assert_eq!(calls("del"), None);
    let errors = info(&mut client, "errorstats");
    // INCR, and an AUTH without a password.
    assert_eq!(
        (&*errors["errorstat_ERR"], &*errors["errorstat_EXECABORT"]),
        ("count=2", "count=1")
    );
    let Value::Array(entries) = says(&mut client, "slowlog get -1") else { panic!("SLOWLOG") };
    let names: Vec<String> = entries.iter().map(slow_words).collect();
    let logged = |line: &str| names.iter().filter(|name| *name == line).count();
    for (line, count) in [("set a x", 1), ("incr a", 1), ("echo e", 1), ("get a", 1), ("exec", 0)] {
        assert_eq!(logged(line), count, "{line} in {names:?}");
    }
}

#[test]
fn a_spike_of_latency_is_noted_once_that_is_asked_for() {
    let server = Running::start(|config| config.debug_command = DebugCommand::Yes);
    let mut client = server.client();
    let events = |client: &mut Client| match says(client, "latency latest") {
        Value::Array(events) => events,
        other => panic!("{other:?}"),
    };
    assert_eq!(says(&mut client, "debug sleep 0.03"), ok());
    assert_eq!(events(&mut client), []);
    assert_eq!(says(&mut client, "config set latency-monitor-threshold 20"), ok());
    for line in ["debug sleep 0.03", "get a", "multi", "debug sleep 0.05", "exec", "set a 1"] {
        says(&mut client, line);
    }
    let latest = events(&mut client);
    let [Value::Array(event)] = &latest[..] else { panic!("{latest:?}") };
    let [name, _, _, Value::Integer(most)] = &event[..] else { panic!("{event:?}") };
    assert_eq!(name, &Value::Bulk(b"command".into()));
    assert!(*most >= 50, "{event:?}");
    let history = says(&mut client, "latency history command");
    assert!(matches!(&history, Value::Array(samples) if !samples.is_empty()), "{history:?}");
    assert_eq!(says(&mut client, "latency reset"), Value::Integer(1));
    assert_eq!(events(&mut client), []);
}

#[test]
fn an_index_that_is_full_takes_no_more() {
    let server = Running::start(|_| {});
    let mut client = server.client();
    assert_eq!(says(&mut client, "set a 1"), ok());
    let size = figure(&mut client, "memory", "index_bytes");
    let oom = Value::Error("OOM command not allowed when used memory > 'maxmemory'.".into());
    assert_eq!(says(&mut client, &format!("config set maxmemory {}", size - 1)), ok());
    for line in ["set b 1", "append a 1", "mset b 1 c 1", "setrange b 5 x", "incr b"] {
        assert_eq!(says(&mut client, line), oom, "{line}");
    }
    // What adds nothing works, and makes room.
    assert_eq!(says(&mut client, "get a"), Value::Bulk(b"1".into()));
    assert_eq!(says(&mut client, "expire a 1000"), Value::Integer(1));
    assert_eq!(says(&mut client, "del a"), Value::Integer(1));
    assert_eq!(says(&mut client, "config set maxmemory 0"), ok());
    assert_eq!(says(&mut client, "set b 1"), ok());
    // It is watched while it grows, too.
    let most = figure(&mut client, "memory", "index_bytes") + 100_000;
    assert_eq!(says(&mut client, &format!("config set maxmemory {most}")), ok());
    let mut keys = 0;
    wait_for("a full index", || {
        for _ in 0..500 {
            keys += 1;
            client.send(&["SET", &format!("key-{keys}"), "v"]);
        }
        client.flush().unwrap();
        let replies: Vec<Value> = (0..500).map(|_| client.receive().unwrap()).collect();
        replies.contains(&oom).then_some(())
    });
    assert!(figure(&mut client, "memory", "index_bytes") < 10 * most);
    assert_eq!(says(&mut client, "flushall"), ok());
    wait_for("room", || (says(&mut client, "set a 1") == ok()).then_some(()));
}

#[test]
fn info_has_the_sections_and_fields_of_redis() {
    let server = Running::start(|_| {});
    let mut client = server.client();
    says(&mut client, "set a 1 ex 1000");
    let fields = info(&mut client, "default");
    for name in [
        "redis_version",
        "redis_mode",
        "process_id",
        "run_id",
        "tcp_port",
        "uptime_in_seconds",
        "connected_clients",
        "maxclients",
        "blocked_clients",
        "used_memory",
        "used_memory_human",
        "used_memory_rss",
        "used_memory_peak_human",
        "maxmemory",
        "maxmemory_human",
        "maxmemory_policy",
        "mem_fragmentation_ratio",
        "loading",
        "aof_enabled",
        "aof_last_write_status",
        "total_connections_received",
        "total_commands_processed",
        "instantaneous_ops_per_sec",
        "total_net_input_bytes",
        "rejected_connections",
        "expired_keys",
        "evicted_keys",
        "keyspace_hits",
        "total_error_replies",
        "role",
        "connected_slaves",
        "master_replid",
        "used_cpu_sys",
        "used_cpu_user",
        "cluster_enabled",
        "segments",
        "dead_bytes",
        "compactions",
        "group_commits",
    ] {
        assert!(fields.contains_key(name), "no {name} in {fields:?}");
    }
    assert_eq!(fields["db0"], "keys=1,expires=1,avg_ttl=0");
    assert_eq!(fields["role"], "master");
    assert_eq!(fields["run_id"].len(), 40);
    assert!(!fields.keys().any(|name| name.starts_with("cmdstat_")), "only on request");
    let some = text(says(&mut client, "info CPU cluster nosuch"));
    let titles: Vec<&str> = some.lines().filter(|line| line.starts_with('#')).collect();
    assert_eq!(titles, ["# CPU", "# Cluster"]);
    assert!(text(says(&mut client, "info all")).contains("cmdstat_set:calls=1"));
}
