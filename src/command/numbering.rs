//! A number for every command and subcommand, so that what is counted of each can lie in an array.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{Command, commands};

static ALL: LazyLock<Vec<&'static Command>> = LazyLock::new(|| {
    commands().flat_map(|command| std::iter::once(command).chain(command.subcommands)).collect()
});

static NUMBERS: LazyLock<HashMap<&'static str, usize>> =
    LazyLock::new(|| ALL.iter().enumerate().map(|(number, row)| (row.name, number)).collect());

/// Every command, each followed by its subcommands; a command's place is its number.
pub fn numbered() -> &'static [&'static Command] {
    &ALL
}

/// The numbers of commands, found by where their rows lie in memory: for one thread, which asks at
/// every request. A row may lie in several places, so these are learnt as they are met.
#[derive(Debug)]
pub struct Numbers {
    /// Open-addressed, with room; 0 is no address.
    places: Vec<(usize, u16)>,
    known: usize,
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers { places: vec![(0, 0); (ALL.len() * 4).next_power_of_two()], known: 0 }
    }
}

impl Numbers {
    /// The number of `command`.
    #[inline]
    pub fn of(&mut self, command: &'static Command) -> usize {
        let address = std::ptr::from_ref(command) as usize;
        let mask = self.places.len() - 1;
        let mut at = (address / size_of::<Command>()) & mask;
        loop {
            match self.places[at] {
                (known, number) if known == address => return number.into(),
                (0, _) => return self.learn(at, address, command.name),
                _ => at = (at + 1) & mask,
            }
        }
    }

    #[cold]
    fn learn(&mut self, at: usize, address: usize, name: &str) -> usize {
        let number = NUMBERS.get(name).copied().unwrap_or_default();
        // Half of the places stay free, however often rows were copied: then one looks longer.
        if self.known < self.places.len() / 2 {
            self.known += 1;
            self.places[at] = (address, number as u16);
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::super::lookup;
    use super::*;

    #[test]
    fn every_command_has_a_number_of_its_own() {
        let mut numbers = Numbers::default();
        for _ in 0..2 {
            for (number, command) in numbered().iter().enumerate() {
                assert_eq!(numbers.of(command), number, "{}", command.name);
            }
        }
        let get = lookup(b"get").unwrap();
        assert_eq!(numbered()[numbers.of(get)].name, "get");
    }
}
