//! The server as a whole: settings, figures, emptying and stopping it.

use super::errors::{SYNTAX, refused};
use super::introspection::container_help;
use super::keys::database;
use super::numbers::small_integer;
use super::{Client, Command, Flags, Group, Outcome, Reads, Run, Writes, matches_nocase};
use crate::clock::since_epoch;
use crate::protocol::{Args, Reply};

const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);
const OPERATION: Flags = ALWAYS.and(Flags::ADMIN).and(Flags::NOSCRIPT);

pub(super) const COMMANDS: &[Command] = &[
    Command::new(Group::Server, "info", -1, Run::Local(info))
        .flags(ALWAYS)
        .help("INFO [section ...]", "Figures about the server"),
    Command::new(Group::Server, "config", -2, Run::Local(container_help))
        .subcommands(SUBCOMMANDS)
        .help("CONFIG subcommand", "The server's settings; see CONFIG HELP"),
    Command::new(Group::Server, "dbsize", 1, Run::Read(dbsize))
        .flags(Flags::FAST)
        .help("DBSIZE", "The number of keys of the database"),
    Command::new(Group::Server, "time", 1, Run::Local(time))
        .flags(ALWAYS.and(Flags::FAST))
        .help("TIME", "The server's clock: seconds since 1970, and microseconds"),
    Command::new(Group::Server, "flushall", -1, Run::Write(flushall))
        .help("FLUSHALL [ASYNC | SYNC]", "Removes every key of every database"),
    Command::new(Group::Server, "flushdb", -1, Run::Write(flushdb))
        .help("FLUSHDB [ASYNC | SYNC]", "Removes every key of the database"),
    Command::new(Group::Server, "swapdb", 3, Run::Write(swapdb))
        .flags(Flags::FAST)
        .help("SWAPDB index1 index2", "Exchanges what two databases hold, at once"),
    Command::new(Group::Server, "shutdown", -1, Run::Local(shutdown))
        .flags(OPERATION.and(Flags::NO_MULTI).and(Flags::ALLOW_BUSY))
        .help(
            "SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]",
            "Stops the server once what was written is safe, whatever is asked for",
        ),
];

const SUBCOMMANDS: &[Command] = &[
    Command::new(Group::Server, "config|get", -3, Run::Local(config_get))
        .flags(OPERATION)
        .help("CONFIG GET pattern [pattern ...]", "The settings whose names match"),
    Command::new(Group::Server, "config|set", -4, Run::Local(config_set))
        .flags(OPERATION)
        .help("CONFIG SET name value [name value ...]", "Changes settings, all of them or none"),
    Command::new(Group::Server, "config|resetstat", 2, Run::Local(config_resetstat))
        .flags(OPERATION)
        .help("CONFIG RESETSTAT", "Sets the counters of INFO back"),
    Command::new(Group::Server, "config|rewrite", 2, Run::Local(config_rewrite))
        .flags(OPERATION)
        .help("CONFIG REWRITE", "Writes the settings to the configuration file"),
    Command::new(Group::Server, "config|help", 2, Run::Local(container_help))
        .flags(ALWAYS)
        .help("CONFIG HELP", "Lists these subcommands"),
];

fn info(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let sections: Vec<String> =
        args.iter().skip(1).map(|word| String::from_utf8_lossy(word).to_lowercase()).collect();
    reply.verbatim(&client.info(&sections));
    Ok(())
}

fn config_get(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let wanted =
        |name: &str| args.iter().skip(2).any(|pattern| matches_nocase(pattern, name.as_bytes()));
    let mut settings = client.settings();
    settings.retain(|(name, _)| wanted(name));
    reply.map(settings.len());
    for (name, value) in settings {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(())
}

fn config_set(client: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if !args.len().is_multiple_of(2) {
        return Err(SYNTAX.into());
    }
    let mut words = Vec::new();
    for word in args.iter().skip(2) {
        let text = std::str::from_utf8(word);
        words.push(text.map_err(|_| "ERR CONFIG SET failed - settings are UTF-8 text")?);
    }
    let pairs: Vec<(&str, &str)> = words.chunks(2).map(|pair| (pair[0], pair[1])).collect();
    client.configure(&pairs).map_err(refused)?;
    reply.ok();
    Ok(())
}

fn config_resetstat(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    client.reset_stats();
    reply.ok();
    Ok(())
}

fn config_rewrite(client: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match client.rewrite_settings() {
        Ok(true) => reply.ok(),
        Ok(false) => return Err("ERR The server is running without a config file".into()),
        Err(error) => return Err(refused(format!("ERR Rewriting config file: {error}"))),
    }
    Ok(())
}

fn dbsize(db: &dyn Reads, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(db.len()? as i64);
    Ok(())
}

fn time(_: &mut dyn Client, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let now = since_epoch();
    reply.array(2);
    reply.bulk_integer(now.as_secs() as i64);
    reply.bulk_integer(now.subsec_micros().into());
    Ok(())
}

fn flushall(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    check_flush(args)?;
    db.clear_all()?;
    reply.ok();
    Ok(())
}

fn flushdb(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    check_flush(args)?;
    db.clear()?;
    reply.ok();
    Ok(())
}

fn swapdb(db: &mut dyn Writes, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    small_integer(&args[1]).map_err(|_| "ERR invalid first DB index")?;
    small_integer(&args[2]).map_err(|_| "ERR invalid second DB index")?;
    let (one, other) = (database(db, &args[1])?, database(db, &args[2])?);
    db.swap(one, other)?;
    reply.ok();
    Ok(())
}

/// There is but one way to empty a database, whatever word asks for it.
fn check_flush(args: Args<'_>) -> Outcome {
    let known =
        |word: &[u8]| word.eq_ignore_ascii_case(b"async") || word.eq_ignore_ascii_case(b"sync");
    let fits = args.len() <= 2 && args.iter().skip(1).all(known);
    if fits { Ok(()) } else { Err(SYNTAX.into()) }
}

/// Writes no reply: the connection ends with the server.
fn shutdown(client: &mut dyn Client, args: Args<'_>, _: &mut Reply<'_>) -> Outcome {
    let (mut save, mut nosave, mut hurry, mut abort) = (false, false, false, false);
    for word in args.iter().skip(1) {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if is(b"nosave") && !save {
            nosave = true;
        } else if is(b"save") && !nosave {
            save = true;
        } else if is(b"now") || is(b"force") {
            hurry = true;
        } else if is(b"abort") {
            abort = true;
        } else {
            return Err(SYNTAX.into());
        }
    }
    if abort && (save || nosave || hurry) {
        return Err(SYNTAX.into());
    }
    if abort {
        return Err("ERR No shutdown in progress.".into());
    }
    client.shutdown();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Session, transcript};

    #[test]
    fn settings_are_shown() {
        transcript(&[
            ("config get save", "*2 $4 save $0 "),
            ("config get SAVE app* nosuch", "*4 $10 appendonly $3 yes $4 save $0 "),
            ("config get nosuch", "*0"),
            ("config get", "-ERR wrong number of arguments for 'config|get' command"),
            ("config set timeout", "-ERR wrong number of arguments for 'config|set' command"),
            ("config set timeout 1 port", "-ERR syntax error"),
            (
                "config set nosuch x",
                "-ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'",
            ),
            ("config rewrite", "-ERR The server is running without a config file"),
            ("config resetstat", "+OK"),
            ("info", "$2 # "),
            ("INFO Server keyspace", "$17 # server+keyspace"),
        ]);
    }

    #[test]
    fn the_server_is_emptied() {
        transcript(&[
            ("mset a 1 b 2", "+OK"),
            ("dbsize", ":2"),
            ("flushall now", "-ERR syntax error"),
            ("select 1", "+OK"),
            ("dbsize", ":0"),
            ("set c 3", "+OK"),
            ("flushdb sync", "+OK"),
            ("dbsize", ":0"),
            ("set c 3", "+OK"),
            ("select 0", "+OK"),
            ("dbsize", ":2"),
            ("flushall async", "+OK"),
            ("dbsize", ":0"),
            ("select 1", "+OK"),
            ("dbsize", ":0"),
        ]);
    }

    #[test]
    fn databases_change_places() {
        transcript(&[
            ("set a zero", "+OK"),
            ("swapdb 0 1", "+OK"),
            ("dbsize", ":0"),
            ("select 1", "+OK"),
            ("get a", "$4 zero"),
            ("swapdb 1 1", "+OK"),
            ("swapdb 15 1", "+OK"),
            ("get a", "$-1"),
            ("select 15", "+OK"),
            ("get a", "$4 zero"),
            ("swapdb x y", "-ERR invalid first DB index"),
            ("swapdb 99999999999 0", "-ERR invalid first DB index"),
            ("swapdb 0 y", "-ERR invalid second DB index"),
            ("swapdb 16 y", "-ERR invalid second DB index"),
            ("swapdb 16 0", "-ERR DB index is out of range"),
            ("swapdb 0 -1", "-ERR DB index is out of range"),
            ("swapdb 0", "-ERR wrong number of arguments for 'swapdb' command"),
        ]);
    }

    #[test]
    fn the_server_is_stopped_without_a_reply() {
        let mut session = Session::default();
        assert_eq!(session.run("shutdown foo"), "-ERR syntax error\r\n");
        assert_eq!(session.run("shutdown abort"), "-ERR No shutdown in progress.\r\n");
        assert!(!session.client.stopped);
        assert_eq!(session.run("shutdown nosave"), "");
        assert!(session.client.stopped);
    }
}
