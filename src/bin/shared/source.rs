//! The JSON lines to be loaded, from a file or from standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use kvs::protocol::JsonEntry;
use kvs::{KvsError, Result};

use super::progress::{Progress, count_keys};

/// Read at once, in bytes.
const BUFFER: usize = 256 << 10;

/// Entries, one a line; blank lines are passed over. Shows how far it has come.
pub struct Source {
    /// The file, as messages name it.
    name: String,
    input: BufReader<Box<dyn Read>>,
    line: Vec<u8>,
    number: u64,
    progress: Progress,
}

impl Source {
    /// Opens `file`; `-` is standard input.
    pub fn open(file: &Path) -> Result<Source> {
        let (name, input, total): (_, Box<dyn Read>, _) = if file.as_os_str() == "-" {
            ("standard input".to_owned(), Box::new(io::stdin().lock()), None)
        } else {
            let name = file.display().to_string();
            let open = || {
                let opened = File::open(file)?;
                let about = opened.metadata()?;
                Ok((opened, about.is_file().then_some(about.len())))
            };
            let (opened, total) = open().map_err(KvsError::io(format!("cannot open {name}")))?;
            (name, Box::new(opened), total)
        };
        let input = BufReader::with_capacity(BUFFER, input);
        let progress = Progress::of_input(total);
        Ok(Source { name, input, line: Vec::new(), number: 0, progress })
    }

    /// The next entry; None at the end. Errors name the file and the line.
    pub fn next_entry(&mut self) -> Result<Option<JsonEntry>> {
        loop {
            self.line.clear();
            self.number += 1;
            let read = self.input.read_until(b'\n', &mut self.line);
            match read.map_err(KvsError::io(format!("cannot read {}", self.name)))? {
                0 => return Ok(None),
                _ if self.line.trim_ascii().is_empty() => {}
                len => {
                    self.progress.advance(len);
                    return match JsonEntry::from_line(&self.line) {
                        Ok(entry) => Ok(Some(entry)),
                        Err(what) => Err(self.refusal(self.number, what)),
                    };
                }
            }
        }
    }

    /// The number of the line that the last entry came from.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The error that `what` is wrong with a line.
    pub fn refusal(&self, number: u64, what: impl std::fmt::Display) -> KvsError {
        super::failure(format!("{}:{number}: {what}", self.name))
    }

    /// Sums up: so many keys were `loaded`, and stay whatever the outcome.
    pub fn finish(&self, outcome: Result<()>, loaded: u64) -> Result<()> {
        match outcome {
            Ok(()) => {
                self.progress.sum_up("loaded", loaded);
                Ok(())
            }
            Err(error) => {
                let loaded = match loaded {
                    0 => "nothing was".to_owned(),
                    1 => "1 key was".to_owned(),
                    _ => format!("{} were", count_keys(loaded)),
                };
                Err(super::failure(format!("{error}; {loaded} loaded")))
            }
        }
    }
}
