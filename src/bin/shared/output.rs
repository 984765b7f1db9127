//! Standard output that may be closed by its reader, as in `kvs dump | head`: no failure, but
//! nothing more is to be done.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

use kvs::KvsError;

/// Buffered before each write, in bytes.
const BUFFER: usize = 64 << 10;

/// Why a program stops early.
#[derive(Debug)]
pub enum Stop {
    /// Something went wrong.
    Failed(KvsError),
    /// It could not even begin, so that nothing is known.
    #[allow(dead_code, reason = "not every program has such work")]
    Unable(KvsError),
    /// Nobody reads the output any more.
    OutputClosed,
}

impl From<KvsError> for Stop {
    fn from(error: KvsError) -> Self {
        Stop::Failed(error)
    }
}

/// Standard output. What was not flushed when it is dropped may be lost.
#[derive(Debug)]
pub struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    /// Locks standard output.
    pub fn new() -> Output {
        Output(BufWriter::with_capacity(BUFFER, io::stdout().lock()))
    }

    /// Writes `bytes`, perhaps later.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.0.write_all(bytes).map_err(stop)
    }

    /// Writes what is buffered.
    pub fn flush(&mut self) -> Result<(), Stop> {
        self.0.flush().map_err(stop)
    }

    /// Writes `bytes` and a line end at once.
    pub fn line(bytes: &[u8]) -> Result<(), Stop> {
        let mut output = Output::new();
        output.write(bytes)?;
        output.write(b"\n")?;
        output.flush()
    }
}

fn stop(error: io::Error) -> Stop {
    match error.kind() {
        ErrorKind::BrokenPipe => Stop::OutputClosed,
        _ => Stop::Failed(KvsError::io("cannot write to standard output")(error)),
    }
}
