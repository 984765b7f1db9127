//! The options that SET, GETEX and the like share: when a value is to end, and on what condition
//! it is to be set.

use super::errors::{SYNTAX, invalid_expiry};
use super::numbers::integer;
use super::{Abort, Writes};
use crate::clock::now_ms;
use crate::protocol::Args;

/// In what an expiry is counted, and from when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    /// Seconds, else milliseconds.
    pub(super) seconds: bool,
    /// From now on, else from 1970 on.
    pub(super) relative: bool,
}

impl Unit {
    pub(super) const EX: Unit = Unit { seconds: true, relative: true };
    pub(super) const PX: Unit = Unit { seconds: false, relative: true };
    pub(super) const EXAT: Unit = Unit { seconds: true, relative: false };
    pub(super) const PXAT: Unit = Unit { seconds: false, relative: false };

    fn of(option: &[u8]) -> Option<Unit> {
        const UNITS: [(&[u8], Unit); 4] =
            [(b"ex", Unit::EX), (b"px", Unit::PX), (b"exat", Unit::EXAT), (b"pxat", Unit::PXAT)];
        let found = UNITS.iter().find(|(name, _)| option.eq_ignore_ascii_case(name));
        found.map(|(_, unit)| *unit)
    }

    /// The moment that a positive number in this unit means, in milliseconds since 1970.
    pub(super) fn moment(self, word: &[u8], command: &str) -> Result<u64, Abort> {
        let number = integer(word)?;
        let scaled = number.checked_mul(if self.seconds { 1000 } else { 1 });
        let base = if self.relative { now_ms() as i64 } else { 0 };
        let moment = scaled.and_then(|scaled| scaled.checked_add(base));
        let valid = moment.filter(|_| number > 0).and_then(|moment| u64::try_from(moment).ok());
        valid.ok_or_else(|| invalid_expiry(command))
    }
}

/// What becomes of a key's expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Expiry<'a> {
    /// No option names it.
    #[default]
    Default,
    /// It stays: KEEPTTL.
    Keep,
    /// It goes: PERSIST.
    Remove,
    /// It is set to this number in this unit: EX and the like.
    At(Unit, &'a [u8]),
}

/// Which options a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// NX, XX, IFEQ, GET and KEEPTTL.
    Set,
    /// PERSIST.
    GetEx,
}

/// The options of a request.
#[derive(Debug, Default)]
pub(super) struct Options<'a> {
    pub(super) expiry: Expiry<'a>,
    /// Only if the key is absent.
    pub(super) absent: bool,
    /// Only if the key is there.
    pub(super) present: bool,
    /// Only if the key is there with this value.
    pub(super) equals: Option<&'a [u8]>,
    /// Reply with the old value.
    pub(super) get: bool,
}

impl<'a> Options<'a> {
    /// Reads the words from `at` on. Saying the same twice is fine, as it is to Redis.
    pub(super) fn parse(args: Args<'a>, at: usize, dialect: Dialect) -> Result<Self, Abort> {
        let mut options = Options::default();
        let mut words = args.iter().skip(at);
        while let Some(word) = words.next() {
            let taken = if let Some(unit) = Unit::of(word) {
                words.next().is_some_and(|number| options.expire(Expiry::At(unit, number)))
            } else if dialect == Dialect::Set && word.eq_ignore_ascii_case(b"ifeq") {
                words.next().is_some_and(|value| options.compare(value))
            } else if dialect == Dialect::Set {
                options.take_of_set(word)
            } else {
                word.eq_ignore_ascii_case(b"persist") && options.expire(Expiry::Remove)
            };
            if !taken {
                return Err(SYNTAX.into());
            }
        }
        Ok(options)
    }

    fn take_of_set(&mut self, word: &[u8]) -> bool {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if is(b"nx") && !self.present && self.equals.is_none() {
            self.absent = true;
        } else if is(b"xx") && !self.absent && self.equals.is_none() {
            self.present = true;
        } else if is(b"get") {
            self.get = true;
        } else {
            return is(b"keepttl") && self.expire(Expiry::Keep);
        }
        true
    }

    /// Sets what the value has to be, unless there is a condition already.
    fn compare(&mut self, value: &'a [u8]) -> bool {
        let only = !self.absent && !self.present && self.equals.is_none();
        self.equals = Some(value);
        only
    }

    /// Sets the expiry, unless another kind of it was named before.
    fn expire(&mut self, expiry: Expiry<'a>) -> bool {
        let agree = match (self.expiry, expiry) {
            (Expiry::Default, _) => true,
            (Expiry::At(before, _), Expiry::At(unit, _)) => before == unit,
            (before, _) => before == expiry,
        };
        if agree {
            self.expiry = expiry;
        }
        agree
    }
}

/// Sets a key to a value that ends at a moment: one that is past deletes it.
pub(super) fn put_until(
    db: &mut dyn Writes,
    key: &[u8],
    value: &[u8],
    expires_at: u64,
) -> Result<(), Abort> {
    if expires_at <= now_ms() {
        return db.delete(key).map(drop);
    }
    db.put(key, value, Some(expires_at))
}
