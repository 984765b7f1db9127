//! `kvs-client repl`: one command after the other, typed in or from a pipe.
//!
//! Thread: main. Always holds: a command is sent once. If the connection fails while its reply is
//! awaited, nobody knows whether it was done; that is said, and the next command connects anew. No
//! command that was meant for a transaction is done without one.

use std::ops::ControlFlow;

use kvs::client::Client;
use kvs::protocol::{Value, split_line};
use kvs::{KvsError, Result};

use super::Target;
use super::lines::Lines;
use super::shared::{self, Done, Output, Stop};
use super::show;

/// Runs until the input ends. On a terminal who types has seen what failed; a pipe is told by the exit
/// code.
pub fn run(target: Target) -> Result<Done, Stop> {
    let client = Some(target.connect()?);
    let (database, queued, transaction) = (0, None, Transaction::None);
    let mut repl = Repl { target, client, database, queued, transaction, failed: false };
    let mut lines = Lines::of_stdin()?;
    while let Some(line) = lines.next(&repl.prompt())? {
        if repl.take(&line)?.is_break() {
            break;
        }
    }
    Ok(if repl.failed && !lines.is_typed() { Done::InVain } else { Done::Well })
}

/// What MULTI or WATCH has begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    Begun,
    /// With its connection.
    Lost,
}

struct Repl {
    target: Target,
    client: Option<Client>,
    /// What SELECT has chosen.
    database: u64,
    /// What a SELECT in a transaction will choose.
    queued: Option<u64>,
    transaction: Transaction,
    /// A command was answered by an error, or not at all.
    failed: bool,
}

impl Repl {
    fn prompt(&self) -> String {
        let addr = &self.target.addr;
        match (&self.client, self.database) {
            (None, _) => "not connected> ".to_owned(),
            (Some(_), 0) => format!("{addr}> "),
            (Some(_), database) => format!("{addr}[{database}]> "),
        }
    }

    /// Does what a line says; breaks at the last one.
    fn take(&mut self, line: &[u8]) -> Result<ControlFlow<()>, Stop> {
        let Some(words) = split_line(line) else {
            self.complain(&shared::failure("a quote is not closed, or has text right behind it"));
            return Ok(ControlFlow::Continue(()));
        };
        let Some(name) = words.first().map(|name| name.to_ascii_lowercase()) else {
            return Ok(ControlFlow::Continue(()));
        };
        if name == b"quit" || name == b"exit" {
            return Ok(ControlFlow::Break(()));
        }
        match self.ask(&name, &words) {
            Ok(reply) => {
                self.note(&name, words.get(1), &reply);
                Output::line(&show::answer(&words, &reply))?;
            }
            Err(error) => self.complain(&error),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn complain(&mut self, error: &KvsError) {
        self.failed = true;
        eprintln!("kvs-client: {error}");
    }

    fn ask(&mut self, name: &[u8], words: &[Vec<u8>]) -> Result<Value> {
        super::refuse_silence(words)?;
        if self.client.as_ref().is_some_and(Client::is_closed) {
            self.disconnect();
        }
        if self.transaction == Transaction::Lost {
            if matches!(name, b"exec" | b"discard") {
                self.transaction = Transaction::None;
            }
            let what =
                "not sent: the transaction is gone with its connection; EXEC or DISCARD ends it";
            return Err(shared::failure(what));
        }
        if self.client.is_none() {
            self.client = Some(self.connect_again()?);
        }
        let Some(client) = &mut self.client else { return Err(KvsError::Closed) };
        client.call(words).map_err(|error| {
            self.disconnect();
            shared::failure(format!("{error}; whether that was done is not known"))
        })
    }

    fn disconnect(&mut self) {
        self.client = None;
        if self.transaction == Transaction::Begun {
            self.transaction = Transaction::Lost;
        }
    }

    /// A connection that works on the same database as the one before.
    fn connect_again(&mut self) -> Result<Client> {
        let mut client = self.target.connect()?;
        if self.database != 0 {
            client.command(&["SELECT", &self.database.to_string()])?;
        }
        self.queued = None;
        eprintln!("kvs-client: connected to {} again", client.peer());
        Ok(client)
    }

    /// Keeps track of the database and of transactions.
    fn note(&mut self, name: &[u8], word: Option<&Vec<u8>>, reply: &Value) {
        self.failed |= matches!(reply, Value::Error(_));
        let number = || std::str::from_utf8(word?).ok()?.parse().ok();
        match (name, reply) {
            (b"multi" | b"watch", Value::Simple(_)) => self.transaction = Transaction::Begun,
            (b"unwatch", Value::Simple(status)) if status == "QUEUED" => {}
            (b"exec" | b"discard" | b"unwatch" | b"reset", _) => {
                self.transaction = Transaction::None
            }
            _ => {}
        }
        match (name, reply) {
            (b"select", Value::Simple(status)) if status == "QUEUED" => self.queued = number(),
            (b"select", Value::Simple(_)) => self.database = number().unwrap_or(self.database),
            (b"exec", Value::Array(_)) => {
                self.database = self.queued.take().unwrap_or(self.database);
            }
            (b"reset", Value::Simple(_)) => (self.database, self.queued) = (0, None),
            (b"exec" | b"discard", _) => self.queued = None,
            _ => {}
        }
    }
}
