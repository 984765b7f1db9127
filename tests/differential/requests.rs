//! Random requests: of every command in the table, with words that fit and words that do not.

use kvs::command::{Command, commands};

use super::exceptions::{NOT_ASKED, how};
use super::peers::Request;
use crate::serving::Random;

/// The forms of requests: a capital stands for a kind of word, see [`word`]; `*` after it for any
/// number of them, none included.
const SHAPES: &str = "\
get K|set K V|set K V S*|set K F|set K J|set K M|mget K*|mset KV*|mset K V K V|msetnx K V K V|\
getset K V|getdel K|getex K|getex K X*|setnx K V|setex K Z V|psetex K Z V|append K V|append K M|\
strlen K|getrange K I I|substr K I I|setrange K R V|lcs K K|lcs K K L*|\
incr K|decr K|incrby K I|decrby K I|incrbyfloat K F|incrbyfloat K F|\
del K*|unlink K K|exists K*|touch K|type K|rename K K|renamenx K K|copy K K|copy K K C*|\
randomkey|keys H|scan 0 count 1000|scan 0 match H count 1000|scan I count 1000|scan 0 N*|\
expire K Z|expire K Z E*|pexpire K Z|pexpire K Z E|expireat K A|expireat K A E|pexpireat K A E|\
ttl K|pttl K|expiretime K|pexpiretime K|persist K|\
dump K|restore K 0 D|restore K T D O*|object encoding K|object refcount K|object freq K|\
object idletime K|object K K|\
setbit K Q B|getbit K Q|bitcount K|bitcount K I I|bitcount K I I U|bitpos K B|bitpos K B I|\
bitpos K B I I|bitpos K B I I U|bitop P K K|bitop P K K K|bitop P K K K K|\
bitfield K G|bitfield K G G|bitfield K W|bitfield K W W|bitfield K Y W W|bitfield K Y W G Y W|\
bitfield_ro K G|bitfield_ro K G G|bitfield_ro K W|\
move K a|move K b|swapdb a b|select a|select b|flushdb|flushall async|flushdb V|\
multi|multi|exec|exec|exec|discard|watch K|watch K K|unwatch|\
ping|ping V|echo V|client setname K|client getname|hello V|hello J V V|auth V|auth V V|time|command getkeys K K|\
command getkeys set K V|command getkeys mset KV*|nosuch K|K V|\
command getkeysandflags K K|command getkeysandflags set K V S*|command getkeysandflags bitfield K G W|\
client V|client K V|client no-evict V|client no-evict on|client no-evict off|client kill V|\
client kill id 0|client kill id x|client kill id 999999999|client kill addr V|client kill type V|\
client kill type pubsub|client kill user V|client kill user default id 999999999|client list type V|\
client list type master|client list id x|client unblock I V|client unblock 999999999|client getredir|\
client trackinginfo|client unpause|client pause x|client pause -1 V|client reply V|hello 2 setname V|\
memory usage K|memory usage K samples I|memory usage K V V|debug sleep V|debug V|\
script exists V*|script flush|script flush V|function flush|function flush V|function list|\
function list V V";

/// Words of options and numbers that any command may get where they do not belong. No number of
/// them is a short time: no key is to end while it is compared.
const ANY: &str = "a b c d -1 0 x 01 \"\" 9223372036854775807 -9223372036854775808 1.5 inf nx xx get \
    ex px exat pxat keepttl persist replace absttl match count type limit len idx bit byte \
    overflow gt lt and not 99999999999 * string help";

/// Makes requests from chance, and knows of the connection's transaction.
pub struct Requests {
    random: Random,
    shapes: Vec<(&'static Command, &'static str)>,
    /// Serialised values, sound and unsound.
    payloads: Vec<Vec<u8>>,
    in_transaction: bool,
}

impl Requests {
    pub fn new(random: Random, payloads: Vec<Vec<u8>>) -> Requests {
        let shape = |shape: &'static str| {
            let name = shape.split(' ').next().unwrap();
            // A name that is none stands for itself.
            Some((kvs::command::lookup(name.as_bytes())?, shape))
        };
        let mut shapes: Vec<_> = SHAPES.split('|').filter_map(shape).collect();
        shapes.extend(["nosuch K", "K V"].map(|none| (shapes[0].0, none)));
        Requests { random, shapes, payloads, in_transaction: false }
    }

    /// The key commands that no shape is about and no exception names.
    pub fn forgotten() -> Vec<&'static str> {
        let asked =
            |name: &str| SHAPES.split('|').any(|shape| shape.split(' ').next() == Some(name));
        let excepted = |name: &str| NOT_ASKED.iter().any(|(excepted, _)| *excepted == name);
        let names = commands().map(|command| command.name);
        names.filter(|name| !asked(name) && !excepted(name)).collect()
    }

    /// The connection is as it was when it was new.
    pub fn reset(&mut self) {
        self.in_transaction = false;
    }

    /// The next one. Within a transaction, only such whose replies are compared byte for byte: they
    /// come as parts of the reply to EXEC.
    pub fn next(&mut self) -> Request {
        loop {
            let request = self.any();
            let name = request.first().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
            if request.is_empty() || (self.in_transaction && how(&request).is_some()) {
                continue;
            }
            match &name[..] {
                b"multi" if request.len() == 1 => self.in_transaction = true,
                b"exec" | b"discard" if request.len() == 1 => self.in_transaction = false,
                _ => {}
            }
            return request;
        }
    }

    /// A request that changes a key, for another connection.
    pub fn write(&mut self) -> Request {
        ["set", "K", "V"].iter().flat_map(|part| self.part(part)).collect()
    }

    fn any(&mut self) -> Request {
        let (_, shape) = self.shapes[self.random.below(self.shapes.len())];
        let mut parts = shape.split(' ');
        let mut request: Request = Vec::new();
        if self.random.below(10) == 0 {
            // The name, and of a container the subcommand, with words of any kind.
            request.extend(parts.next().into_iter().flat_map(|name| self.part(name)));
            for _ in 0..self.random.below(6) {
                request.push(self.of(ANY));
            }
        } else {
            request = parts.flat_map(|part| self.part(part)).collect();
            match self.random.below(30) {
                0 => drop(request.pop()),
                1 => request.push(self.of(ANY)),
                _ => {}
            }
        }
        if let Some(name) = request.first_mut()
            && self.random.below(4) == 0
        {
            name.make_ascii_uppercase();
        }
        request
    }

    fn part(&mut self, part: &str) -> Request {
        let kinds = part.trim_end_matches('*');
        let is_kind = |c: char| c.is_ascii_uppercase() || c == 'a' || c == 'b';
        if !(kinds.chars().all(is_kind) && (kinds.len() == 1 || part.ends_with('*'))) {
            return vec![part.as_bytes().to_vec()];
        }
        let times = if part.ends_with('*') { self.random.below(5) } else { 1 };
        let kinds: Vec<char> = (0..times).flat_map(|_| kinds.chars()).collect();
        kinds.into_iter().flat_map(|kind| self.word(kind)).collect()
    }

    /// One of these words.
    fn of(&mut self, words: &str) -> Vec<u8> {
        let words: Vec<&str> = words.split_ascii_whitespace().collect();
        match words[self.random.below(words.len())] {
            "\"\"" => Vec::new(),
            word => unescape(word),
        }
    }

    fn word(&mut self, kind: char) -> Request {
        vec![self.of(match kind {
            'K' => "a b c d",
            'V' => {
                "\"\" x 1 10 -5 3.5 hello 9223372036854775807 \\xff\\x00\\xff \\x201 01 -0 \
                 0123456789012345678901234567890123456789012345"
            }
            'M' => "ohmytext mynewtext abcabcbb bbcaabac \\xff\\xff \\xff\\xf0 \\x00",
            'J' => "0 1 -1 41 9223372036854775807 -9223372036854775808",
            'I' => {
                "0 1 -1 2 3 -2 -100 100 1000 01 -0 +1 abc \"\" 9223372036854775807 \
                 -9223372036854775808 9223372036854775808 9223372036854775 -9223372036854775 1.5"
            }
            'R' => "0 1 5 -1 20 5000 536870912 x 9223372036854775807",
            'A' => "99999999999999 88888888888888 1 -1 0",
            'T' => "0 -1 x 9223372036854775808 99999999999",
            'S' => "nx XX get ex px exat pxat keepttl 99999999999 0 -1 x persist",
            'X' => "ex px exat pxat persist 99999999999 0 x keepttl",
            'L' => "len idx minmatchlen withmatchlen 2 0 -1 x",
            'C' => "replace 0 16 x -1",
            'E' => "nx XX gt lt foo",
            'B' => "0 1 1 2 -1 x",
            'Q' => "0 1 7 8 9 100 -1 x #1 4294967295000 4294967296",
            'U' => "bit BYTE x",
            'P' => "and OR xor not nope",
            'H' => "* a* [a-c] ? \"\" a [^b] x*",
            'N' => "match count type * 1000 string list 0 x",
            'O' => "replace absttl idletime freq 5 300 -1 x REPLACE",
            'a' => "0 1 2 15",
            'b' => "0 1 15 16 -1 x \"\" 99999999999",
            _ => return self.words(kind),
        })]
    }

    /// The kinds that are not one of a few words.
    fn words(&mut self, kind: char) -> Request {
        match kind {
            'D' => vec![self.payloads[self.random.below(self.payloads.len())].clone()],
            // So many that two are hardly ever the same: GT and LT would then depend on how many
            // milliseconds the two servers took.
            'Z' => match self.random.below(4) {
                0 => vec![
                    self.of("-1 0 x 01 9223372036854775807 -9223372036854775808 9223372036854775"),
                ],
                _ => vec![(1_000_000 + self.random.below(1_000_000_000)).to_string().into_bytes()],
            },
            'F' => vec![self.float()],
            'Y' => vec![b"overflow".to_vec(), self.of("wrap SAT fail fail x")],
            'G' => vec![b"get".to_vec(), self.of(FIELD_TYPES), self.of(FIELD_PLACES)],
            'W' => {
                let verb = self.of("set incrby incrby");
                // Redis saturates the smallest number upwards when it is set.
                let smallest = verb == b"incrby" && self.random.below(3) == 0;
                let number = self.word(if smallest { 'J' } else { 'I' }).remove(0);
                let number = if smallest { number } else { self.field_number(number) };
                vec![verb, self.of(FIELD_TYPES), self.of(FIELD_PLACES), number]
            }
            _ => unreachable!("no kind of word is called {kind}"),
        }
    }

    fn field_number(&mut self, other: Vec<u8>) -> Vec<u8> {
        match self.random.below(4) {
            0 if other != b"-9223372036854775808" => other,
            _ => self.of("0 1 -1 5 127 128 255 256 -128 -129 100 1000 9223372036854775807 x"),
        }
    }

    fn float(&mut self) -> Vec<u8> {
        let digits = self.random.below(1_000_000_000) as f64;
        let scale = 10_f64.powi(self.random.below(30) - 15);
        match self.random.below(3) {
            0 => format!("{}", digits * scale).into_bytes(),
            1 => format!("-{:e}", digits * scale).into_bytes(),
            _ => self.of(
                "0 0.1 0.2 -0.3 1e10 1e17 -1e18 1e-17 5e-18 1e-18 inf -inf nan 0x1.8p1 .5 5. 1e 1x \
                 3.0e3 1e4000 -1e4000 1e5000 1e-5000 \"\" . - 100000000000000000000 +3 2.5E+3",
            ),
        }
    }
}

const FIELD_TYPES: &str = "u8 i8 u1 i1 i64 u63 u64 u0 i5 u7 x8 i65 U8 i";
const FIELD_PLACES: &str = "0 1 #1 #2 7 33 -1 x #x";

/// `\xff` as the byte it stands for.
fn unescape(word: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        match rest {
            [b'\\', b'x', high, low, behind @ ..] => {
                let digit = |digit: u8| char::from(digit).to_digit(16).unwrap() as u8;
                bytes.push(digit(*high) << 4 | digit(*low));
                rest = behind;
            }
            _ => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}
