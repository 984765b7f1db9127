//! A client on the command line: one command, one after the other, or all keys in and out of a server.

mod bulk;
mod lines;
mod repl;
#[path = "../shared/mod.rs"]
mod shared;
mod show;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use kvs::client::{Client, Timeouts};
use kvs::protocol::Value;
use kvs::{KvsError, Result as KvsResult};

use shared::{Done, Output, Stop, Word};

/// A server that takes longer to take a connection is given up.
const CONNECT: Option<Duration> = Some(Duration::from_secs(5));
/// So is one that takes longer to go on with a reply. Of commands at large nobody knows how long they
/// take, as SAVE and WAIT: for these there is Ctrl-C.
const REPLY: Option<Duration> = Some(Duration::from_secs(60));

/// Names the variable that holds the password, if the server asks for one.
const PASSWORD: &str = "KVS_PASSWORD";

const EXAMPLES: &str = "\
Examples:
  kvs-client set name Ada
  kvs-client get name --addr db.example:4000
  kvs-client set -- -key -value             words that begin with '-' come after '--'
  kvs-client call incrby visits 10          any command of the server
  kvs-client repl                           one after the other; help lists them
  kvs-client dump > all.jsonl               every key and value, one JSON line each
  kvs-client dump --prefix user: | jq -r .key
  kvs-client load all.jsonl --addr 127.0.0.1:4001

Exit codes: 0 done (also: get found no key), 1 failed (also: rm found no key), 2 wrong words or flags.";

/// Talks to a kvs-server.
#[derive(Debug, Parser)]
#[command(name = "kvs-client", version, after_help = EXAMPLES, arg_required_else_help = false)]
struct Args {
    /// The server.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:4000",
        value_parser = address
    )]
    addr: String,
    /// What to log in with; rather in the variable KVS_PASSWORD, as flags are seen by all.
    #[arg(long, global = true, value_name = "PASSWORD")]
    password: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Give a key a value.
    Set {
        /// Any bytes, at most 64 KiB.
        key: Word,
        /// Any bytes, at most 512 MiB.
        #[arg(allow_negative_numbers = true)]
        value: Word,
    },
    /// Print a key's value, its bytes as they are, and a newline; or "Key not found".
    Get {
        /// The key.
        key: Word,
    },
    /// Remove a key.
    Rm {
        /// The key.
        key: Word,
    },
    /// Check that the server answers; prints PONG.
    Ping,
    /// Send any command and print the reply.
    Call {
        /// The command and its arguments.
        #[arg(required = true, value_name = "WORD", allow_negative_numbers = true)]
        words: Vec<Word>,
    },
    /// Send one command after the other, typed in or from a pipe.
    ///
    /// Words are split as the server splits lines: "quote" one that holds spaces. help and help COMMAND
    /// say what there is; quit, exit and the end of the input end it. Replies go to stdout. From a
    /// pipe, the exit code is 1 if a command was answered by an error or not at all. If the connection
    /// fails, the next command connects anew; nothing is sent twice.
    Repl,
    /// Print all keys and values in key order, as JSON lines.
    ///
    /// {"key":"k","value":"v"}, and {"base64":"..."} in place of a string that is no UTF-8;
    /// "expires_at" (milliseconds since 1970) where a key ends, "database" where it is not in
    /// database 0. The server goes on meanwhile: a key that changes is printed as it was or as it is.
    Dump {
        /// Only the keys that start with this.
        #[arg(long, value_name = "P", default_value = "")]
        prefix: Word,
    },
    /// Set keys from JSON lines, as `dump` prints them.
    ///
    /// Stops at a line that is wrong or refused; what came before it stays. Loading a file again
    /// does no harm.
    Load {
        /// The file; - is standard input.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
}

/// Checks the form only: a name is looked up when it is needed.
fn address(word: &str) -> Result<String, String> {
    let is_name = |host: &str| !host.is_empty() && !host.contains([':', '[', ']']);
    let named = word
        .rsplit_once(':')
        .is_some_and(|(host, port)| is_name(host) && port.parse::<u16>().is_ok());
    if named || word.parse::<SocketAddr>().is_ok() {
        return Ok(word.to_owned());
    }
    Err("an address is HOST:PORT, as in 127.0.0.1:4000, localhost:4000 or [::1]:4000".into())
}

/// A server, and how to log in.
struct Target {
    addr: String,
    password: Option<String>,
    timeouts: Timeouts,
}

impl Target {
    /// Connects to the first address of the host that answers.
    fn connect(&self) -> KvsResult<Client> {
        let addr = &self.addr;
        let found = addr.to_socket_addrs().map_err(KvsError::io(format!("cannot find {addr}")))?;
        let mut client = Client::connect_with(&found.collect::<Vec<_>>()[..], self.timeouts)?;
        if let Some(password) = &self.password {
            client.command(&["AUTH", password])?;
        }
        Ok(client)
    }
}

fn main() -> ExitCode {
    shared::main("kvs-client", run)
}

fn run(args: Args) -> Result<Done, Stop> {
    let password = args.password.or_else(|| std::env::var(PASSWORD).ok());
    let is_any = matches!(args.command, Command::Call { .. } | Command::Repl);
    let timeouts = Timeouts { connect: CONNECT, io: if is_any { None } else { REPLY } };
    let target = Target { addr: args.addr, password, timeouts };
    if let Command::Repl = args.command {
        return repl::run(target);
    }
    let mut client = target.connect()?;
    match args.command {
        Command::Set { key, value } => client.set(key, value)?,
        Command::Get { key } => get(&mut client, &key)?,
        Command::Rm { key } => return remove(&mut client, &key),
        Command::Ping => {
            client.ping()?;
            Output::line(b"PONG")?;
        }
        Command::Call { words } => call(&mut client, &words)?,
        Command::Dump { prefix } => bulk::dump(&mut client, &prefix.0)?,
        Command::Load { file } => bulk::load(&mut client, &file)?,
        Command::Repl => {}
    }
    Ok(Done::Well)
}

fn get(client: &mut Client, key: &Word) -> Result<(), Stop> {
    match client.get(key)? {
        Some(value) => Output::line(&value),
        None => Output::line(b"Key not found"),
    }
}

fn remove(client: &mut Client, key: &Word) -> Result<Done, Stop> {
    if client.del(key)? {
        return Ok(Done::Well);
    }
    eprintln!("Key not found");
    Ok(Done::InVain)
}

/// Refuses what is answered by nothing: the reply is waited for.
fn refuse_silence(words: &[impl AsRef<[u8]>]) -> KvsResult<()> {
    let is = |i: usize, name: &str| {
        words.get(i).is_some_and(|word| word.as_ref().eq_ignore_ascii_case(name.as_bytes()))
    };
    if is(0, "client") && is(1, "reply") && (is(2, "off") || is(2, "skip")) {
        return Err(shared::failure("not sent: CLIENT REPLY OFF and SKIP are of no use here"));
    }
    Ok(())
}

/// An error of the server is an error here, too: on stderr.
fn call(client: &mut Client, words: &[Word]) -> Result<(), Stop> {
    refuse_silence(words)?;
    match client.call(words)? {
        Value::Error(message) => Err(shared::failure(format!("(error) {message}")).into()),
        reply => Output::line(&show::answer(words, &reply)),
    }
}
