//! The command line, read with one line of complaint where it is wrong.

use std::process::ExitCode;

use clap::Parser;

/// Exit code of wrong words or flags, as shells and clap have it.
const MISUSED: u8 = 2;

/// Reads the command line into `A`; the exit code where there is nothing more to do: after --help,
/// --version, and a mistake.
pub fn parse<A: Parser>(name: &str) -> Result<A, ExitCode> {
    A::try_parse().map_err(|answer| {
        if answer.use_stderr() {
            eprintln!("{name}: {}", one_line(&answer));
            return ExitCode::from(MISUSED);
        }
        // --help and --version, which nobody may be reading.
        let _ = answer.print();
        ExitCode::SUCCESS
    })
}

/// clap's message on one line: what is wrong, its tip, the usage.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut message = String::new();
    for paragraph in text.split("\n\n") {
        let paragraph = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if paragraph.is_empty() || paragraph.starts_with("For more information") {
            continue;
        }
        if !message.is_empty() {
            message.push_str("; ");
        }
        message.push_str(&paragraph.replacen("Usage: ", "usage: ", 1));
    }
    message.trim_start_matches("error: ").to_owned()
}
