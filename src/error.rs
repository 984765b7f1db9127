//! The one error type of the crate.
//!
//! "Not there" is no error on the byte-string API (`Option`), and "not yet complete" is none in the
//! decoders; what is here went wrong.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// The result of everything in this crate that can fail.
pub type Result<T, E = KvsError> = std::result::Result<T, E>;

/// What went wrong. Cheap to clone: one failed group commit answers many waiters.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum KvsError {
    /// The operating system refused a file or socket operation.
    Io {
        /// What was being done and to which file, as in `write 00000003.log`.
        doing: String,
        /// The error of the system call.
        source: Arc<io::Error>,
    },
    /// [`KvStore::remove`](crate::KvStore::remove) of a key that is not there.
    KeyNotFound,
    /// Bytes on disk do not have the checksum they were written with.
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes from its start.
        offset: u64,
        /// What was found there.
        what: String,
    },
    /// An earlier write or sync failed; the store takes no more writes until it is opened anew.
    Poisoned {
        /// The failure that did it.
        cause: String,
    },
    /// There is no room on the disk for this write.
    NoSpace,
    /// A key, value or batch is larger than the format can hold.
    TooLarge {
        /// Which of them, as in `key`.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Another process has the directory open.
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The process that holds it, as far as its lock file tells.
        pid: Option<u32>,
    },
    /// The directory, an option or an argument cannot be used; the message says why and what to do.
    Invalid(String),
    /// The engine does not have this operation.
    Unsupported(&'static str),
    /// A backup is being made, and there is but one at a time.
    BackupUnderWay,
    /// The store is closed or closing.
    Closed,
    /// A reply that breaks the protocol.
    Protocol(String),
    /// The server answered a request with this error line.
    Server(String),
}

impl KvsError {
    /// Wraps an I/O error with what was being done; fits `map_err`.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> KvsError {
        let doing = doing.into();
        move |source| KvsError::Io { doing, source: Arc::new(source) }
    }

    /// Whether the process or the system has too many files open for one more: nothing is wrong with the
    /// disk, and clients that leave make room.
    pub(crate) fn is_no_descriptor(&self) -> bool {
        match self {
            KvsError::Io { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
            }
            _ => false,
        }
    }
}

impl fmt::Display for KvsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvsError::Io { doing, source } if doing.is_empty() => write!(f, "{source}"),
            KvsError::Io { doing, source } => write!(f, "{doing}: {source}"),
            KvsError::KeyNotFound => f.write_str("Key not found"),
            KvsError::Damaged { file, offset, what } => {
                write!(f, "damaged: {} at byte {offset}: {what}", file.display())
            }
            KvsError::Poisoned { cause } => {
                write!(
                    f,
                    "writes are refused since an earlier one failed ({cause}); reads go on; restart after mending the disk"
                )
            }
            KvsError::NoSpace => f.write_str(
                "no space left on the disk: values are refused until there is room; reads and deletes go on",
            ),
            KvsError::TooLarge { what, len, limit } => {
                write!(f, "{what} of {len} bytes is over the limit of {limit} bytes")
            }
            KvsError::Locked { dir, pid: Some(pid) } => {
                write!(f, "{} is in use by process {pid}", dir.display())
            }
            KvsError::Locked { dir, pid: None } => {
                write!(f, "{} is in use by another process", dir.display())
            }
            KvsError::Invalid(message)
            | KvsError::Protocol(message)
            | KvsError::Server(message) => f.write_str(message),
            KvsError::Unsupported(what) => write!(f, "this engine has no {what}"),
            KvsError::BackupUnderWay => f.write_str("Background save already in progress"),
            KvsError::Closed => f.write_str("the store is closed"),
        }
    }
}

impl std::error::Error for KvsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            KvsError::Io { source, .. } => Some(&**source),
            _ => None,
        }
    }
}

impl From<io::Error> for KvsError {
    fn from(source: io::Error) -> Self {
        KvsError::Io { doing: String::new(), source: Arc::new(source) }
    }
}
