//! docs/commands.md and the table in README.md say what the table of commands says. After a change
//! of the table: `KVS_WRITE_DOCS=1 cargo test --test commands_page`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use kvs::command::{Command, Flags, Group, Run, Step, commands};

const HEAD: &str = "\
# Commands

Every command of kvs-server, made from its table of commands (`KVS_WRITE_DOCS=1 cargo test --test
commands_page`). What Redis 7.0 has, too, behaves as it does there; [protocol.md](protocol.md) tells
what differs, and how replies look. `HELP` and `COMMAND DOCS` say the same on a connection.

The last column tells where a command runs. *loop*: it touches no key. *read*: on the event loop if
what it needs is in memory, else on a read worker. *walk*: on a read worker, and what comes behind it
on its connection waits. *write*: on the writer, in one order with all other writes, durable before it
is answered; one that *may grow* the store is refused when there is no room.
";

fn place(command: &Command) -> &'static str {
    let is_walk = matches!(command.run, Run::Scan(_));
    match command.run {
        Run::Local(_) | Run::Session(Step::Multi | Step::Discard) => "loop",
        Run::Read(_) => "read",
        _ if is_walk => "walk",
        _ => "write",
    }
}

fn row(command: &Command, page: &mut String) {
    let escaped = command.syntax.replace('|', "\\|");
    let needs_room = if command.flags.contain(Flags::DENYOOM) { ", may grow" } else { "" };
    let (summary, place) = (command.summary.replace('|', "\\|"), place(command));
    writeln!(page, "| `{escaped}` | {summary}. | {place}{needs_room} |").unwrap();
}

/// The groups, in the order of the table, each with its commands.
fn groups() -> Vec<(Group, Vec<&'static Command>)> {
    let mut groups: Vec<(Group, Vec<_>)> = Vec::new();
    for command in commands() {
        match groups.iter_mut().find(|(group, _)| *group == command.group) {
            Some((_, members)) => members.push(command),
            None => groups.push((command.group, vec![command])),
        }
    }
    groups
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (group, members) in groups() {
        let mut title = group.name().to_owned();
        title[..1].make_ascii_uppercase();
        write!(page, "\n## {title}\n\n| command | what it does | runs |\n| --- | --- | --- |\n")
            .unwrap();
        for command in members {
            match command.subcommands {
                [] => row(command, &mut page),
                subcommands => subcommands.iter().for_each(|sub| row(sub, &mut page)),
            }
        }
    }
    page
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn the_page_of_commands_is_what_the_table_says() {
    let (path, page) = (file("docs/commands.md"), page());
    if std::env::var_os("KVS_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    let stale = page.lines().zip(written.lines()).find(|(now, then)| now != then);
    let length = (page.lines().count(), written.lines().count());
    assert!(
        page == written,
        "docs/commands.md is out of date ({stale:?}, {length:?} lines): see the top of this test"
    );
}

#[test]
fn the_readme_names_each_command_once() {
    let readme = std::fs::read_to_string(file("README.md")).unwrap();
    let (_, behind) = readme.split_once("| group | commands |").unwrap();
    let rows = behind.lines().skip(2).take_while(|line| line.starts_with('|'));
    let named: Vec<String> = rows
        .flat_map(|row| row.split('|').nth(2).unwrap_or_default().split_whitespace())
        .map(str::to_lowercase)
        .collect();
    let once: BTreeSet<&str> = named.iter().map(String::as_str).collect();
    assert_eq!(once.len(), named.len(), "a command is named twice");
    let table: BTreeSet<&str> = commands().map(|command| command.name).collect();
    assert_eq!(once, table, "README.md and the table");
}
