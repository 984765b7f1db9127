//! The configuration file: its lines, and how CONFIG REWRITE brings them up to date.

use std::io::Write;
use std::path::Path;

use super::parameters::{PARAMETERS, Parameter, find};
use super::{Config, Settings};
use crate::error::{KvsError, Result};

/// What stands above the lines that a rewrite appends.
const APPENDED: &str = "# Set by CONFIG REWRITE";

/// The name and the value of a line; `None` if it has none. `#` begins a comment, but not within
/// quotes. Words that are not quoted are joined by one space.
pub(super) fn parse_line(line: &str) -> Result<Option<(String, String)>> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, behind) = match rest.strip_prefix('"') {
            Some(quoted) => parse_quoted(quoted)?,
            None => {
                let end = rest.find([' ', '\t', '#']).unwrap_or(rest.len());
                let (word, behind) = rest.split_at(end);
                (word.to_owned(), behind)
            }
        };
        words.push(word);
        rest = behind.trim_start();
    }
    if words.is_empty() {
        return Ok(None);
    }
    let name = words.remove(0);
    if words.is_empty() {
        return Err(KvsError::Invalid(format!("'{name}' has no value")));
    }
    Ok(Some((name, words.join(" "))))
}

/// The word up to the closing quote, and what is behind it. `\` quotes the next character.
fn parse_quoted(text: &str) -> Result<(String, &str)> {
    let mut word = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((word, &text[at + 1..])),
            '\\' => word.push(match letters.next().map_or('\\', |(_, letter)| letter) {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            }),
            _ => word.push(letter),
        }
    }
    Err(KvsError::Invalid("a quote is not closed".into()))
}

/// A value as it stands in a line.
fn quoted(value: &str) -> String {
    let plain = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '"' | '#' | '\\');
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    let mut text = String::from("\"");
    for letter in value.chars() {
        match letter {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '"' | '\\' => text.extend(['\\', letter]),
            _ => text.push(letter),
        }
    }
    text.push('"');
    text
}

impl Parameter {
    fn line(&self, config: &Config) -> String {
        let value = self.get(config);
        // Its words are the setting's own.
        let value = match self.name {
            "client-output-buffer-limit" => value,
            _ => quoted(&value),
        };
        format!("{} {value}", self.name)
    }
}

/// The text of a file, with the settings as they are now: what it sets is set anew where it stands,
/// what is not the default is appended, and the rest stays.
fn rewritten(text: &str, config: &Config, defaults: &Config) -> String {
    let mut done: Vec<&'static str> = Vec::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        let row = match parse_line(line) {
            // The flag's name: not in bytes as the parameter is.
            Ok(Some((name, _))) if name == "output-limit" => find("client-output-buffer-limit"),
            Ok(Some((name, _))) => find(&name),
            _ => None,
        };
        match row.filter(|row| row.is_live()) {
            None => lines.push(line.to_owned()),
            Some(row) if done.contains(&row.name) => {}
            Some(row) => {
                done.push(row.name);
                lines.push(row.line(config));
            }
        }
    }
    let missing = PARAMETERS.iter().filter(|row| {
        row.is_live() && !done.contains(&row.name) && row.get(config) != row.get(defaults)
    });
    let missing: Vec<String> = missing.map(|row| row.line(config)).collect();
    if !missing.is_empty() && !lines.iter().any(|line| line == APPENDED) {
        lines.push(APPENDED.to_owned());
    }
    lines.extend(missing);
    lines.join("\n") + "\n"
}

impl Config {
    /// Brings the configuration file up to date. It is there as it was or as a whole, whatever
    /// happens meanwhile.
    ///
    /// # Errors
    /// When it cannot be read or written. False if there is none.
    pub fn rewrite(&self) -> Result<bool> {
        let Some(path) = &self.file else { return Ok(false) };
        let doing = |what: &str| KvsError::io(format!("{what} {}", path.display()));
        let text = std::fs::read_to_string(path).map_err(doing("read"))?;
        let text = rewritten(&text, self, &Settings::default().check()?);
        replace(path, text.as_bytes()).map_err(doing("rewrite"))?;
        Ok(true)
    }
}

/// Puts a file in the place of another, with its permissions: the old one may keep a password.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("rewrite");
    let mut file = std::fs::File::create(&new)?;
    file.set_permissions(std::fs::metadata(path)?.permissions())?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(line: &str) -> Option<(String, String)> {
        parse_line(line).unwrap()
    }

    #[test]
    fn lines_are_names_values_and_comments() {
        let some = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
        assert_eq!(pair("# fsync no"), None);
        assert_eq!(pair("  "), None);
        assert_eq!(pair("fsync no # not safe"), some("fsync", "no"));
        assert_eq!(pair("requirepass \"a # \\\"b\\\" \\\\\""), some("requirepass", "a # \"b\" \\"));
        assert_eq!(pair("save \"\""), some("save", ""));
        assert_eq!(pair("x  normal\t0 0"), some("x", "normal 0 0"));
        assert!(parse_line("fsync").is_err() && parse_line("requirepass \"a").is_err());
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        for value in ["plain", "", "a b", "#", "\"", "\\", "\\n\n\r\t", "é"] {
            let line = format!("requirepass {}", quoted(value));
            assert_eq!(pair(&line), Some(("requirepass".into(), value.into())), "{line}");
        }
    }

    #[test]
    fn a_rewrite_keeps_what_it_need_not_change() {
        let text = "# mine\nmax-clients 5\n\nloops 3 # as many\ntimeout 1\ntimeout 2\n";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let config = Settings::from_file(file.path()).unwrap().check().unwrap();
        let pairs = [("requirepass", "a b"), ("timeout", "9"), ("latency-tracking", "no")];
        super::super::set_all(&config, &pairs).unwrap();
        for _ in 0..2 {
            assert!(config.rewrite().unwrap());
            let rewritten = std::fs::read_to_string(&file).unwrap();
            assert_eq!(
                rewritten,
                "# mine\nmaxclients 5\n\nloops 3 # as many\ntimeout 9\n# Set by CONFIG REWRITE\n\
                 latency-tracking no\nrequirepass \"a b\"\n"
            );
        }
        let again = Settings::from_file(file.path()).unwrap().check().unwrap();
        assert!(again.live.is_password(b"a b") && again.live.timeout.get() == 9);
        assert!(!Settings::default().check().unwrap().rewrite().unwrap());
    }
}
