//! A history of one key, and whether one order of its operations explains it (linearizability).
//!
//! Each operation takes effect at one moment between its call and its return, those of one
//! connection in the order in which they were sent. One that has no return was in flight when its
//! server stopped: it took effect before that, or never.
//!
//! The check (after Wing and Gong, and Lowe) goes through calls, returns and stops as they came. It
//! keeps all configurations that are possible so far: the value, and which of the operations under
//! way have taken effect. A return leaves those in which its operation has; if none is left, no order
//! explains the history. An operation that changes nothing and returns what it would return now is
//! given effect at once: to wait could not help.

use std::collections::HashSet;

use kvs::protocol::Value;

/// What is done to the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Get,
    Set(String),
    SetNx(String),
    GetSet(String),
    Append(String),
    Incr,
    Del,
}

type State = Option<String>;

impl Action {
    /// The request.
    pub fn words(&self, key: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Action::Get => &["GET", key],
            Action::Set(value) => &["SET", key, value],
            Action::SetNx(value) => &["SET", key, value, "NX"],
            Action::GetSet(value) => &["GETSET", key, value],
            Action::Append(value) => &["APPEND", key, value],
            Action::Incr => &["INCR", key],
            Action::Del => &["DEL", key],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// What it makes of the value, and its reply.
    fn run(&self, state: &State) -> (State, Value) {
        let bulk = |state: &State| state.clone().map_or(Value::Null, |v| Value::Bulk(v.into()));
        match self {
            Action::Get => (state.clone(), bulk(state)),
            Action::Set(value) => (Some(value.clone()), Value::Simple("OK".into())),
            Action::SetNx(_) if state.is_some() => (state.clone(), Value::Null),
            Action::SetNx(value) => (Some(value.clone()), Value::Simple("OK".into())),
            Action::GetSet(value) => (Some(value.clone()), bulk(state)),
            Action::Append(more) => {
                let whole = state.clone().unwrap_or_default() + more;
                let len = whole.len() as i64;
                (Some(whole), Value::Integer(len))
            }
            Action::Incr => match integer(state.as_deref().unwrap_or("0")) {
                Some(n) => (Some((n + 1).to_string()), Value::Integer(n + 1)),
                None => {
                    let error = "ERR value is not an integer or out of range";
                    (state.clone(), Value::Error(error.into()))
                }
            },
            Action::Del => (None, Value::Integer(state.is_some().into())),
        }
    }
}

/// The integer that a text is in its shortest form.
fn integer(text: &str) -> Option<i64> {
    text.parse().ok().filter(|n: &i64| n.to_string() == text)
}

/// One operation. Times are places in the one order of all calls, returns and stops.
#[derive(Debug, Clone)]
pub struct Operation {
    pub connection: usize,
    pub action: Action,
    pub called: u64,
    /// When the reply came, and what it was.
    pub returned: Option<(u64, Value)>,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
    Stop,
}

/// A value, and of the operations under way those that have taken effect, as bits.
type Configuration = (State, u64);

/// Operations that are under way, each in a slot: the bit of it.
#[derive(Default)]
struct UnderWay<'a> {
    slots: Vec<Option<&'a Operation>>,
}

impl<'a> UnderWay<'a> {
    fn add(&mut self, operation: &'a Operation) {
        match self.slots.iter().position(Option::is_none) {
            Some(free) => self.slots[free] = Some(operation),
            None => self.slots.push(Some(operation)),
        }
        assert!(self.slots.len() <= 64, "too many operations at once for this check");
    }

    fn bit_of(&self, operation: &Operation) -> u64 {
        let is = |slot: &Option<&Operation>| slot.is_some_and(|it| std::ptr::eq(it, operation));
        1 << self.slots.iter().position(is).unwrap()
    }

    fn remove(&mut self, bit: u64) {
        self.slots[bit.trailing_zeros() as usize] = None;
    }

    /// Those that have not taken effect and may do so now, with their bits.
    fn candidates(&self, done: u64) -> impl Iterator<Item = (u64, &'a Operation)> + '_ {
        let all = || self.slots.iter().enumerate().filter_map(|(i, op)| Some((1 << i, (*op)?)));
        let waits = move |operation: &Operation| {
            all().any(|(bit, other)| {
                let before = other.connection == operation.connection
                    && (other.called, other as *const _)
                        < (operation.called, operation as *const _);
                done & bit == 0 && before
            })
        };
        all().filter(move |(bit, operation)| done & bit == 0 && !waits(operation))
    }
}

/// Gives effect to all that changes nothing and fits.
fn settle(ways: &UnderWay<'_>, (state, mut done): Configuration) -> Configuration {
    loop {
        let fits = ways.candidates(done).find(|(_, operation)| {
            let (after, reply) = operation.action.run(&state);
            after == state && operation.returned.as_ref().is_some_and(|(_, came)| *came == reply)
        });
        match fits {
            Some((bit, _)) => done |= bit,
            None => return (state, done),
        }
    }
}

/// All configurations that these can become by operations under way.
fn expand(ways: &UnderWay<'_>, from: HashSet<Configuration>) -> HashSet<Configuration> {
    let mut open: Vec<_> = from.into_iter().map(|one| settle(ways, one)).collect();
    let mut all: HashSet<Configuration> = open.iter().cloned().collect();
    while let Some((state, done)) = open.pop() {
        for (bit, operation) in ways.candidates(done) {
            let (after, reply) = operation.action.run(&state);
            if operation.returned.as_ref().is_some_and(|(_, came)| *came != reply) {
                continue;
            }
            let next = settle(ways, (after, done | bit));
            if all.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    all
}

/// Checks a history of one key that began without a value; `stops` are the times at which servers
/// stopped. The error tells what led to what cannot be explained.
pub fn check(history: &[Operation], stops: &[u64]) -> Result<(), String> {
    let mut events: Vec<(u64, Event)> = stops.iter().map(|time| (*time, Event::Stop)).collect();
    for (i, operation) in history.iter().enumerate() {
        events.push((operation.called, Event::Call(i)));
        events.extend(operation.returned.as_ref().map(|(time, _)| (*time, Event::Return(i))));
    }
    events.sort_by_key(|(time, _)| *time);
    let (mut ways, mut possible) = (UnderWay::default(), HashSet::from([(None, 0)]));
    for (at, (_, event)) in events.iter().enumerate() {
        match event {
            Event::Call(i) => ways.add(&history[*i]),
            Event::Return(i) => {
                let bit = ways.bit_of(&history[*i]);
                possible = expand(&ways, possible);
                possible.retain(|(_, done)| done & bit != 0);
                possible = possible.into_iter().map(|(state, done)| (state, done & !bit)).collect();
                ways.remove(bit);
            }
            Event::Stop => {
                possible =
                    expand(&ways, possible).into_iter().map(|(state, _)| (state, 0)).collect();
                ways.slots.clear();
            }
        }
        if possible.is_empty() {
            return Err(tell(history, &events[at.saturating_sub(40)..=at]));
        }
    }
    Ok(())
}

fn tell(history: &[Operation], events: &[(u64, Event)]) -> String {
    let line = |(time, event): &(u64, Event)| match event {
        Event::Call(i) => {
            let Operation { connection, action, .. } = &history[*i];
            format!("{time}: connection {connection} calls {action:?}")
        }
        Event::Return(i) => {
            let Operation { connection, action, returned, .. } = &history[*i];
            let reply = returned.as_ref().map(|(_, reply)| reply);
            format!("{time}: connection {connection} has {reply:?} of {action:?}")
        }
        Event::Stop => format!("{time}: the server stops"),
    };
    let lines: Vec<String> = events.iter().map(line).collect();
    format!("no order explains the last of\n{}", lines.join("\n"))
}
