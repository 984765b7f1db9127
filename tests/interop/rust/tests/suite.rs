//! The `redis` crate, in RESP2 and RESP3: blocking connections, the multiplexed one that tasks share,
//! and the manager that connects again by itself.

use kvs_interop::{WIRES, client, connect, control, filled, is_ours, patiently, url};
use redis::aio::ConnectionManagerConfig;
use redis::{
    AsyncCommands, Commands, ErrorKind, ExistenceCheck, RedisResult, ServerErrorKind, SetExpiry,
    SetOptions, Value, cmd, pipe,
};

const MANY: usize = 10_000;
const MIB: usize = 1 << 20;

/// The same test over each version of the protocol, one after another.
fn over_wires(test: impl Fn(&str)) {
    WIRES.into_iter().for_each(test);
}

#[test]
fn keys_and_values_hold_any_byte() {
    over_wires(|wire| {
        let mut db = connect(wire);
        let all: Vec<u8> = (0..=255).collect();
        let () = db.set(&all, &all).unwrap();
        assert_eq!(db.get::<_, Vec<u8>>(&all).unwrap(), all);
        let single: Vec<Vec<u8>> = all.iter().map(|&byte| vec![byte]).collect();
        let pairs: Vec<(&[u8], &[u8])> = single.iter().map(|b| (&b[..], &b[..])).collect();
        let () = db.mset(&pairs).unwrap();
        assert_eq!(db.mget::<_, Vec<Vec<u8>>>(&single).unwrap(), single);
        assert_eq!(cmd("DBSIZE").query::<usize>(&mut db).unwrap(), 257);
    });
}

#[test]
fn empty_is_not_missing() {
    over_wires(|wire| {
        let mut db = connect(wire);
        let () = db.set("empty", "").unwrap();
        let found: Vec<Option<String>> = db.mget(&["empty", "missing"]).unwrap();
        assert_eq!(found, [Some(String::new()), None]);
    });
}

#[test]
fn large_values() {
    over_wires(|wire| {
        let mut db = connect(wire);
        for size in [MIB, 64 * MIB] {
            let value = filled(size);
            let () = db.set("large", &value).unwrap();
            assert_eq!(db.strlen::<_, usize>("large").unwrap(), size);
            assert!(
                db.get::<_, Vec<u8>>("large").unwrap() == value,
                "{size} bytes came back changed"
            );
        }
    });
}

#[test]
fn many_commands_in_one_pipeline() {
    over_wires(|wire| {
        let mut db = connect(wire);
        let mut pipe = pipe();
        for i in 0..MANY / 2 {
            pipe.set(i, i).ignore();
        }
        for i in 0..MANY / 2 {
            pipe.get(i);
        }
        let found: Vec<usize> = pipe.query(&mut db).unwrap();
        assert_eq!(found, (0..MANY / 2).collect::<Vec<_>>());
        pipe.clear();
        // Each read sees the write right before it.
        for i in 0..100 {
            pipe.set("k", i).ignore().get("k");
        }
        let found: Vec<usize> = pipe.query(&mut db).unwrap();
        assert_eq!(found, (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn many_keys_in_one_command() {
    over_wires(|wire| {
        let mut db = connect(wire);
        let pairs: Vec<(String, usize)> = (0..MANY).map(|i| (format!("key:{i}"), i)).collect();
        let () = db.mset(&pairs).unwrap();
        let keys: Vec<&String> = pairs.iter().map(|(key, _)| key).collect();
        assert_eq!(db.mget::<_, Vec<usize>>(&keys).unwrap(), (0..MANY).collect::<Vec<_>>());
        assert_eq!(db.del::<_, usize>(&keys).unwrap(), MANY);
    });
}

#[test]
fn transactions() {
    over_wires(|wire| {
        let mut db = connect(wire);
        let mut pipe = pipe();
        let (count, text): (i64, String) =
            pipe.atomic().set("a", 1).ignore().incr("a", 1).get("a").query(&mut db).unwrap();
        assert_eq!((count, text.as_str()), (2, "2"));
        let () = db.set("count", 1).unwrap();
        let mut other = client(wire).get_connection().unwrap();
        let mut tries = 0;
        let (count,): (i64,) = redis::transaction(&mut db, &["count"], |db, pipe| {
            let count: i64 = db.get("count")?;
            tries += 1;
            if tries == 1 {
                // In between: so it must be tried again.
                let () = other.set("count", 10)?;
            }
            pipe.set("count", count + 1).ignore().get("count").query(db)
        })
        .unwrap();
        assert_eq!((tries, count), (2, 11));
    });
}

#[test]
fn databases_have_keys_of_their_own() {
    over_wires(|wire| {
        let mut db = connect(wire);
        let mut third = redis::Client::open(url(wire, 3)).unwrap().get_connection().unwrap();
        let () = third.set("k", 3).unwrap();
        assert_eq!(db.get::<_, Option<i64>>("k").unwrap(), None);
        assert_eq!(third.get::<_, i64>("k").unwrap(), 3);
    });
}

#[test]
fn errors_have_their_kinds() {
    over_wires(|wire| {
        let mut db = connect(wire);
        let () = db.set("text", "abc").unwrap();
        let response = ErrorKind::Server(ServerErrorKind::ResponseError);
        let error = db.incr::<_, _, i64>("text", 1).unwrap_err();
        assert_eq!(error.kind(), response);
        assert_eq!(error.detail(), Some("value is not an integer or out of range"));
        let error = cmd("NOSUCH").arg("a").query::<Value>(&mut db).unwrap_err();
        assert_eq!(error.kind(), response);
        assert!(error.detail().unwrap().starts_with("unknown command 'NOSUCH', with args"));
        let error = cmd("HELLO").arg(9).query::<Value>(&mut db).unwrap_err();
        assert_eq!(error.code(), Some("NOPROTO"));
        assert_eq!(db.get::<_, String>("text").unwrap(), "abc");
    });
}

#[test]
fn replies_have_their_types() {
    over_wires(|wire| {
        let mut db = connect(wire);
        let hello: Value =
            cmd("HELLO").arg(if wire == "resp3" { 3 } else { 2 }).query(&mut db).unwrap();
        assert_eq!(matches!(hello, Value::Map(_)), wire == "resp3");
        assert_eq!(db.get::<_, Value>("missing").unwrap(), Value::Nil);
        let settings: Vec<(String, String)> =
            cmd("CONFIG").arg("GET").arg("maxclients").query(&mut db).unwrap();
        assert_eq!(settings, [("maxclients".to_owned(), "10000".to_owned())]);
        let info: redis::InfoDict = cmd("INFO").query(&mut db).unwrap();
        assert!(info.get::<String>("redis_version").unwrap().starts_with("7."));
        assert_eq!(info.get::<u8>("loading"), Some(0));
    });
}

#[test]
fn the_options_of_set_and_scans() {
    over_wires(|wire| {
        let mut db = connect(wire);
        let once = SetOptions::default().conditional_set(ExistenceCheck::NX);
        let expiring = once.clone().with_expiration(SetExpiry::EX(1_000));
        assert_eq!(db.set_options::<_, _, Value>("k", 1, expiring).unwrap(), Value::Okay);
        assert_eq!(db.set_options::<_, _, Value>("k", 2, once).unwrap(), Value::Nil);
        assert!((1..=1_000).contains(&db.ttl::<_, i64>("k").unwrap()));
        assert_eq!(db.incr::<_, _, f64>("k", 0.5).unwrap(), 1.5);
        let pairs: Vec<(String, usize)> = (0..1_000).map(|i| (format!("scan:{i}"), i)).collect();
        let () = db.mset(&pairs).unwrap();
        let found: RedisResult<std::collections::HashSet<String>> =
            db.scan_match("scan:*").unwrap().collect();
        assert_eq!(found.unwrap().len(), 1_000);
    });
}

#[tokio::test]
async fn tasks_share_a_connection() {
    for wire in WIRES {
        drop(connect(wire));
        let db = client(wire).get_multiplexed_async_connection().await.unwrap();
        let tasks = (0..100).map(|_| {
            let mut db = db.clone();
            tokio::spawn(async move {
                for _ in 0..10 {
                    let _: i64 = db.incr("shared", 1).await.unwrap();
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(db.clone().get::<_, i64>("shared").await.unwrap(), 1_000);
    }
}

#[tokio::test]
async fn a_killed_server_is_found_again_with_what_it_acknowledged() {
    if !is_ours() {
        return;
    }
    for wire in WIRES {
        let mut blocking = connect(wire);
        let expiring = SetOptions::default().with_expiration(SetExpiry::EX(1_000));
        let () = blocking.set_options("late", 1, expiring).unwrap();
        let config = ConnectionManagerConfig::new();
        let manager = client(wire).get_connection_manager_with_config(config).await;
        let mut manager = manager.unwrap();
        for i in 0..100 {
            let () = manager.set(format!("acknowledged:{i}"), i).await.unwrap();
        }
        control("kill");
        assert!(blocking.get::<_, i64>("late").unwrap_err().is_io_error());
        assert!(manager.get::<_, i64>("late").await.is_err());
        control("again");
        let keys: Vec<String> = (0..100).map(|i| format!("acknowledged:{i}")).collect();
        let found = loop {
            // It connects anew when asked; until that is done it tells of the old connection's end.
            match manager.mget::<_, Vec<i64>>(&keys).await {
                Err(error) if error.is_io_error() => tokio::task::yield_now().await,
                found => break found.unwrap(),
            }
        };
        assert_eq!(found, (0..100).collect::<Vec<_>>());
        let mut again = patiently(|| client(wire).get_connection()).unwrap();
        assert!((1..=1_000).contains(&again.ttl::<_, i64>("late").unwrap()));
    }
}
