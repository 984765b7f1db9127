//! HELP: for a person on netcat. Each line of its answer is a status line, so that it can be read
//! as it comes.

use super::errors::refused;
use super::{Client, Command, Flags, Group, Outcome, Run, commands, lookup};
use crate::protocol::{Args, Reply};

pub(super) const COMMANDS: &[Command] =
    &[Command::new(Group::Server, "help", -1, Run::Local(help))
        .flags(Flags::LOADING.and(Flags::STALE))
        .help("HELP [command]", "Lists the commands, or describes one")];

/// The width of a command's words, beyond which its summary begins a line of its own.
const SYNTAX_WIDTH: usize = 38;

fn help(_: &mut dyn Client, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match args.get(1) {
        None => write_lines(&overview(), reply),
        Some(name) => {
            let Some(command) = lookup(name) else {
                let name = String::from_utf8_lossy(name);
                return Err(refused(format!("ERR no command '{name}'; HELP lists them all")));
            };
            write_lines(&description(command), reply);
        }
    }
    Ok(())
}

fn write_lines(lines: &[String], reply: &mut Reply<'_>) {
    reply.array(lines.len());
    for line in lines {
        reply.simple(line);
    }
}

fn overview() -> Vec<String> {
    let mut lines = vec![
        "One command is one line: words, separated by spaces; \"quote\" a word that holds some."
            .to_owned(),
        "Upper or lower case is the same to commands. HELP command says more about one.".to_owned(),
    ];
    let mut group = None;
    for command in commands() {
        if group != Some(command.group) {
            group = Some(command.group);
            lines.push(String::new());
        }
        entry(command, &mut lines);
        command.subcommands.iter().for_each(|sub| entry(sub, &mut lines));
    }
    lines
}

fn entry(command: &Command, lines: &mut Vec<String>) {
    let Command { syntax, summary, .. } = command;
    if syntax.len() <= SYNTAX_WIDTH {
        lines.push(format!("{syntax:SYNTAX_WIDTH$}  {summary}"));
    } else {
        lines.push((*syntax).to_owned());
        lines.push(format!("{:SYNTAX_WIDTH$}  {summary}", ""));
    }
}

fn description(command: &Command) -> Vec<String> {
    let mut lines = vec![command.syntax.to_owned(), format!("    {}.", command.summary)];
    for sub in command.subcommands {
        lines.push(sub.syntax.to_owned());
        lines.push(format!("    {}.", sub.summary));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Session, transcript};
    use super::*;

    #[test]
    fn one_command_is_described() {
        transcript(&[
            ("help get", "*2 +GET key +    The value of a key."),
            ("help nosuch", "-ERR no command 'nosuch'; HELP lists them all"),
        ]);
        let config = Session::default().run("help config");
        assert!(config.contains("+CONFIG GET pattern [pattern ...]\r\n"), "{config}");
    }

    #[test]
    fn every_command_is_listed_in_lines_that_fit_a_terminal() {
        let help = Session::default().run("help");
        for command in commands() {
            assert!(help.contains(&format!("+{}", command.syntax)), "{}", command.name);
            assert!(!command.summary.is_empty(), "{}", command.name);
        }
        let summaries = help.lines().filter(|line| line.contains("  "));
        for line in summaries {
            assert!(line.len() <= 130, "{line}");
        }
    }
}
