//! Databases beside each other: across a restart, and in one pipeline that changes between them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod serving;

use kvs::client::Client;
use kvs::protocol::Value;
use serving::{Random, Running, converse, resp, shown};

const DATABASES: usize = 16;

fn select(client: &mut Client, database: usize) {
    client.command(&["SELECT", &database.to_string()]).unwrap();
}

fn names(client: &mut Client) -> Vec<String> {
    let Value::Array(names) = client.command(&["KEYS", "*"]).unwrap() else { panic!() };
    let text = |name: Value| match name {
        Value::Bulk(name) => String::from_utf8(name).unwrap(),
        other => panic!("{other:?}"),
    };
    names.into_iter().map(text).collect()
}

#[test]
fn each_has_its_keys_after_a_restart_and_a_flush_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start_in(dir.path(), |_| {});
    let mut client = server.client();
    for database in 0..DATABASES {
        select(&mut client, database);
        client.set("same", database.to_string()).unwrap();
        client.set(format!("own:{database}").as_str(), "1").unwrap();
    }
    select(&mut client, 3);
    client.command(&["FLUSHDB"]).unwrap();
    server.stop().unwrap();

    let server = Running::start_in(dir.path(), |_| {});
    let mut client = server.client();
    for database in 0..DATABASES {
        select(&mut client, database);
        let own = format!("own:{database}");
        let expected = if database == 3 { vec![] } else { vec![own.as_str(), "same"] };
        assert_eq!(names(&mut client), expected, "database {database}");
        let value = client.get("same").unwrap();
        assert_eq!(value, (database != 3).then(|| database.to_string().into_bytes()));
    }
    client.command(&["FLUSHALL"]).unwrap();
    select(&mut client, 7);
    client.set("after", "1").unwrap();
    server.stop().unwrap();

    let server = Running::start_in(dir.path(), |_| {});
    let mut client = server.client();
    for database in 0..DATABASES {
        select(&mut client, database);
        assert_eq!(names(&mut client), if database == 7 { vec!["after"] } else { vec![] });
    }
}

/// Writes, reads and walks are answered by different threads, each for the database that the
/// connection had chosen when it sent them.
#[test]
fn a_pipeline_changes_between_them() {
    let mut random = Random::seeded();
    for loop_reads in [true, false] {
        let server = Running::start(|config| config.loop_reads = loop_reads);
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        let mut model = vec![std::collections::BTreeMap::new(); DATABASES];
        let mut database = 0;
        for i in 0..3000 {
            let key = format!("k{}", random.below(20));
            let (words, reply) = match random.below(8) {
                0 | 1 => {
                    database = random.below(DATABASES);
                    (vec!["SELECT".into(), database.to_string()], "+OK\r\n".to_owned())
                }
                2..=4 => {
                    model[database].insert(key.clone(), i.to_string());
                    (vec!["SET".into(), key, i.to_string()], "+OK\r\n".to_owned())
                }
                5 => (vec!["DBSIZE".into()], format!(":{}\r\n", model[database].len())),
                6 => {
                    let keys = model[database].keys();
                    let all: String = keys.map(|k| format!("${}\r\n{k}\r\n", k.len())).collect();
                    let count = model[database].len();
                    (vec!["KEYS".into(), "*".into()], format!("*{count}\r\n{all}"))
                }
                _ => {
                    let reply = match model[database].get(&key) {
                        Some(value) => format!("${}\r\n{value}\r\n", value.len()),
                        None => "$-1\r\n".to_owned(),
                    };
                    (vec!["GET".into(), key], reply)
                }
            };
            sent.extend(resp(&words));
            expected.extend(reply.into_bytes());
        }
        let came = converse(server.addr(), &sent);
        assert!(came == expected, "{}", shown(&came));
    }
}
