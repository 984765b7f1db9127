//! Lines of standard input: typed in, with a prompt, line editing and a history that ends with the
//! program (lines may hold passwords); or from a pipe, any bytes.

use std::io::{self, BufRead, IsTerminal, StdinLock};

use kvs::KvsError;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::shared::{self, Stop};

/// See the module.
pub enum Lines {
    Typed(Box<DefaultEditor>),
    Piped(StdinLock<'static>),
}

impl Lines {
    /// Standard input, whatever it is.
    pub fn of_stdin() -> Result<Lines, Stop> {
        if io::stdin().is_terminal() {
            let editor = DefaultEditor::new().map_err(shared::failure)?;
            return Ok(Lines::Typed(Box::new(editor)));
        }
        Ok(Lines::Piped(io::stdin().lock()))
    }

    /// Whether somebody sits there.
    pub fn is_typed(&self) -> bool {
        matches!(self, Lines::Typed(_))
    }

    /// The next line without its end; `None` at the end of the input, and at Ctrl-C.
    pub fn next(&mut self, prompt: &str) -> Result<Option<Vec<u8>>, Stop> {
        match self {
            Lines::Typed(editor) => match editor.readline(prompt) {
                Ok(line) => {
                    // A line that is not kept is only typed again.
                    let _ = editor.add_history_entry(&line);
                    Ok(Some(line.into_bytes()))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(error) => Err(shared::failure(error).into()),
            },
            Lines::Piped(input) => {
                let mut line = Vec::new();
                let read = input.read_until(b'\n', &mut line);
                match read.map_err(KvsError::io("cannot read standard input"))? {
                    0 => Ok(None),
                    _ => Ok(Some(line)),
                }
            }
        }
    }
}
