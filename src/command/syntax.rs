//! The words of a command as COMMAND DOCS tells them: parsed from its `syntax`, so that the table has
//! them once. redis-cli makes its hints of these.
//!
//! ```text
//! alternatives = run *(" | " run)
//! run          = *(word | TOKEN | TOKEN word ... | a|b | "[" alternatives ["..."] "]")
//! ```
//!
//! `key [key ...]` is one argument that may come again, `[key ...]` one that need not come at all.

use crate::protocol::Reply;

/// What an argument is.
#[derive(Debug, Clone, PartialEq)]
enum Kind<'a> {
    /// A word that the caller chooses.
    Word,
    /// Its token alone.
    Token,
    /// One of these.
    OneOf(Vec<Argument<'a>>),
    /// All of these, in order.
    Block(Vec<Argument<'a>>),
}

/// A word of a command, or several that belong together.
#[derive(Debug, Clone, PartialEq)]
struct Argument<'a> {
    name: &'a str,
    /// Stands before it.
    token: Option<&'a str>,
    kind: Kind<'a>,
    optional: bool,
    multiple: bool,
}

impl<'a> Argument<'a> {
    fn new(name: &'a str, kind: Kind<'a>) -> Argument<'a> {
        Argument { name, token: None, kind, optional: false, multiple: false }
    }

    fn token(token: &'a str) -> Argument<'a> {
        Argument { token: Some(token), ..Argument::new(token, Kind::Token) }
    }

    /// One argument of several.
    fn group(mut arguments: Vec<Argument<'a>>, kind: fn(Vec<Argument<'a>>) -> Kind<'a>) -> Self {
        if arguments.len() == 1 {
            arguments.remove(0)
        } else {
            Argument::new(arguments.first().map_or("", |first| first.name), kind(arguments))
        }
    }

    /// Redis's name for what it may be.
    fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::Token => "pure-token",
            Kind::OneOf(_) => "oneof",
            Kind::Block(_) => "block",
            Kind::Word => match self.name {
                "key" | "key1" | "key2" | "newkey" | "source" | "destination" | "destkey" => "key",
                "seconds" | "milliseconds" | "offset" | "count" | "index" | "cursor" => "integer",
                "unix-seconds" | "unix-milliseconds" => "unix-time",
                "pattern" => "pattern",
                _ => "string",
            },
        }
    }

    fn write(&self, reply: &mut Reply<'_>) {
        let flags = [(self.optional, "optional"), (self.multiple, "multiple")];
        let flags = flags.iter().filter(|(set, _)| *set).map(|(_, name)| name);
        let inner = match &self.kind {
            Kind::OneOf(inner) | Kind::Block(inner) => Some(inner),
            Kind::Word | Kind::Token => None,
        };
        let has_flags = self.optional || self.multiple;
        let more = [self.token.is_some(), has_flags, inner.is_some()];
        reply.map(2 + more.iter().filter(|there| **there).count());
        reply.bulk(b"name");
        reply.bulk(self.name.to_ascii_lowercase().as_bytes());
        reply.bulk(b"type");
        reply.bulk(self.type_name().as_bytes());
        if let Some(token) = self.token {
            reply.bulk(b"token");
            reply.bulk(token.as_bytes());
        }
        if has_flags {
            reply.bulk(b"flags");
            reply.set(flags.clone().count());
            flags.for_each(|name| reply.simple(name));
        }
        if let Some(inner) = inner {
            reply.bulk(b"arguments");
            write_all(inner, reply);
        }
    }
}

fn write_all(arguments: &[Argument<'_>], reply: &mut Reply<'_>) {
    reply.array(arguments.len());
    arguments.iter().for_each(|argument| argument.write(reply));
}

/// The words behind the command's name in its syntax.
fn behind_name<'a>(name: &str, syntax: &'a str) -> &'a str {
    syntax.get(name.len()..).unwrap_or_default()
}

/// Whether the command takes any arguments.
pub(super) fn has_arguments(name: &str, syntax: &str) -> bool {
    !behind_name(name, syntax).is_empty()
}

/// Writes the arguments of the command of this full name and syntax.
pub(super) fn write_arguments(name: &str, syntax: &str, reply: &mut Reply<'_>) {
    write_all(&parse(behind_name(name, syntax)), reply);
}

fn parse(syntax: &str) -> Vec<Argument<'_>> {
    let mut parser = Parser { rest: syntax };
    parser.alternatives().0
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Piece<'a> {
    Open,
    Close,
    Bar,
    More,
    Word(&'a str),
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<(Piece<'a>, &'a str)> {
        let rest = self.rest.trim_start();
        let end = match rest.chars().next()? {
            '[' | ']' => 1,
            _ => rest.find([' ', '[', ']']).unwrap_or(rest.len()),
        };
        let (piece, rest) = rest.split_at(end);
        let piece = match piece {
            "[" => Piece::Open,
            "]" => Piece::Close,
            "|" => Piece::Bar,
            "..." => Piece::More,
            word => Piece::Word(word),
        };
        Some((piece, rest))
    }

    fn next(&mut self) -> Option<Piece<'a>> {
        let (piece, rest) = self.peek()?;
        self.rest = rest;
        Some(piece)
    }

    /// Up to the closing bracket or the end; and whether dots were before it.
    fn alternatives(&mut self) -> (Vec<Argument<'a>>, bool) {
        let (mut done, mut run, mut more) = (Vec::new(), Vec::new(), false);
        loop {
            match self.next() {
                Some(Piece::Word(word)) => run.push(self.word(word)),
                Some(Piece::Open) => self.bracket(&mut run),
                Some(Piece::More) => more = true,
                Some(Piece::Bar) => {
                    done.push(Argument::group(std::mem::take(&mut run), Kind::Block));
                }
                Some(Piece::Close) | None if done.is_empty() => return (run, more),
                Some(Piece::Close) | None => {
                    done.push(Argument::group(run, Kind::Block));
                    return (vec![Argument::group(done, Kind::OneOf)], more);
                }
            }
        }
    }

    /// A token takes the chosen words behind it with it.
    fn word(&mut self, word: &'a str) -> Argument<'a> {
        if word.contains('|') {
            let tokens = word.split('|').map(Argument::token);
            return Argument::group(tokens.collect(), Kind::OneOf);
        }
        if !is_token(word) {
            return Argument::new(word, Kind::Word);
        }
        let mut behind = Vec::new();
        while let Some((Piece::Word(next), rest)) = self.peek() {
            if is_token(next) || next.contains('|') {
                break;
            }
            behind.push(Argument::new(next, Kind::Word));
            self.rest = rest;
        }
        if behind.is_empty() {
            return Argument::token(word);
        }
        Argument { token: Some(word), ..Argument::group(behind, Kind::Block) }
    }

    /// What is in brackets, behind `run`: what may come, or come again.
    fn bracket(&mut self, run: &mut Vec<Argument<'a>>) {
        let (inner, more) = self.alternatives();
        let again = more && run.ends_with(&inner);
        let inner = if again { run.split_off(run.len() - inner.len()) } else { inner };
        let argument = Argument::group(inner, Kind::Block);
        run.push(Argument { optional: !again, multiple: more, ..argument });
    }
}

/// Tokens are written in capitals, or are digits.
fn is_token(word: &str) -> bool {
    !word.contains(|c: char| c.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::super::commands;
    use super::*;

    /// The syntax again, without the blanks around bars.
    fn written(arguments: &[Argument<'_>], between: &str) -> String {
        let each = |argument: &Argument<'_>| {
            let token = argument.token.unwrap_or_default();
            let words = match &argument.kind {
                Kind::Token => String::new(),
                Kind::Word => argument.name.to_owned(),
                Kind::OneOf(inner) => written(inner, "|"),
                Kind::Block(inner) => written(inner, " "),
            };
            let all = format!("{token} {words}").trim().to_owned();
            match (argument.optional, argument.multiple) {
                (false, false) => all,
                (true, false) => format!("[{all}]"),
                (true, true) => format!("[{all} ...]"),
                (false, true) => format!("{all} [{all} ...]"),
            }
        };
        arguments.iter().map(each).collect::<Vec<_>>().join(between)
    }

    #[test]
    fn nothing_of_the_table_is_lost() {
        let subcommands = commands().flat_map(|command| command.subcommands);
        for command in commands().chain(subcommands) {
            let syntax = behind_name(command.name, command.syntax).trim();
            let expected = syntax.replace(" | ", "|");
            assert_eq!(written(&parse(syntax), " "), expected, "{}", command.name);
        }
    }

    #[test]
    fn arguments_have_their_shapes() {
        let mut out = Vec::new();
        let syntax = "X key [key ...] [EX seconds | NX] [AUTH user password]";
        write_arguments("x", syntax, &mut Reply::new(&mut out, crate::protocol::Version::Resp2));
        let shown = String::from_utf8(out).unwrap().replace("\r\n", " ");
        let key = "*6 $4 name $3 key $4 type $3 key $5 flags *1 +multiple ";
        let seconds = "*6 $4 name $7 seconds $4 type $7 integer $5 token $2 EX ";
        let nx = "*6 $4 name $2 nx $4 type $10 pure-token $5 token $2 NX ";
        let one = "*8 $4 name $7 seconds $4 type $5 oneof $5 flags *1 +optional $9 arguments *2 ";
        let words = ["user", "password"]
            .map(|name| format!("*4 $4 name ${} {name} $4 type $6 string ", name.len()));
        let auth = "*10 $4 name $4 user $4 type $5 block $5 token $4 AUTH $5 flags *1 +optional \
                    $9 arguments *2 ";
        assert_eq!(shown, format!("*3 {key}{one}{seconds}{nx}{auth}{}", words.concat()));
    }
}
