//! Reading transcripts and comparing replies with them.

use kvs::protocol::{encode_command, write_json_reply};

/// How a transcript is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// As it is written.
    Inline,
    /// Its lines as arrays.
    Resp,
    /// Its lines as JSON.
    Json,
}

impl Dialect {
    const ALL: [(&'static str, Dialect); 3] =
        [("inline", Dialect::Inline), ("resp", Dialect::Resp), ("json", Dialect::Json)];
}

/// Some lines that are sent and what answers them.
#[derive(Debug, Clone)]
pub struct Step {
    pub line: usize,
    pub sent: Vec<u8>,
    /// Lines with their ends, with `...` for what may be anything.
    pub expected: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Transcript {
    pub name: String,
    pub steps: Vec<Step>,
    dialects: Vec<Dialect>,
}

impl Transcript {
    /// `first` is the number of the text's first line.
    pub fn parse(name: &str, first: usize, text: &str) -> Transcript {
        let mut script = Transcript {
            name: format!("{name}:{first}"),
            steps: Vec::new(),
            dialects: Dialect::ALL.map(|(_, dialect)| dialect).to_vec(),
        };
        let mut answered = true;
        for (i, line) in text.lines().enumerate() {
            let kind = line.split(' ').next().unwrap_or_default();
            let rest =
                line.strip_prefix(kind).map_or("", |rest| rest.strip_prefix(' ').unwrap_or(rest));
            match kind {
                ">" => {
                    if std::mem::take(&mut answered) {
                        let line = first + i;
                        script.steps.push(Step { line, sent: Vec::new(), expected: Vec::new() });
                    }
                    let step = script.steps.last_mut().unwrap();
                    step.sent.extend_from_slice(rest.as_bytes());
                    step.sent.extend_from_slice(b"\r\n");
                }
                "<" => {
                    answered = true;
                    let end: &[u8] = if rest.starts_with('{') { b"\n" } else { b"\r\n" };
                    let step = script.steps.last_mut().expect("an answer without a question");
                    step.expected.extend_from_slice(rest.as_bytes());
                    step.expected.extend_from_slice(end);
                }
                "" => {}
                "#" => script.directive(rest),
                _ => panic!("{name}, line {}: '{line}' begins with none of > < #", first + i),
            }
        }
        assert!(!script.steps.is_empty(), "{name} is empty");
        script
    }

    fn directive(&mut self, comment: &str) {
        if let Some(names) = comment.strip_prefix("dialects:") {
            let named = |(name, _): &(&str, Dialect)| names.split_whitespace().any(|n| n == *name);
            self.dialects = Dialect::ALL.into_iter().filter(named).map(|(_, d)| d).collect();
            assert!(!self.dialects.is_empty(), "dialects are inline, resp, json: {names}");
        }
    }

    /// All that is sent.
    pub fn sent(&self) -> Vec<u8> {
        self.steps.iter().flat_map(|step| &step.sent).copied().collect()
    }

    /// All that is expected.
    pub fn expected(&self) -> Vec<u8> {
        self.steps.iter().flat_map(|step| &step.expected).copied().collect()
    }

    /// The same in another dialect, if it is meant for that.
    pub fn spoken(&self, dialect: Dialect) -> Option<Transcript> {
        if !self.dialects.contains(&dialect) {
            return None;
        }
        let mut spoken = self.clone();
        spoken.name = format!("{} as {dialect:?}", self.name);
        for step in spoken.steps.iter_mut().filter(|_| dialect != Dialect::Inline) {
            step.translate(dialect);
        }
        Some(spoken)
    }
}

impl Step {
    fn translate(&mut self, dialect: Dialect) {
        let text = String::from_utf8(std::mem::take(&mut self.sent)).unwrap();
        for line in text.lines() {
            let words = words(line);
            match dialect {
                Dialect::Json => {
                    let line = serde_json::json!({ "args": words });
                    self.sent.extend_from_slice(format!("{line}\n").as_bytes());
                }
                _ => encode_command(&words, &mut self.sent),
            }
        }
        if dialect == Dialect::Json {
            assert!(!contains(&self.expected, b"..."), "line {}: ... as JSON?", self.line);
            let replies = std::mem::take(&mut self.expected);
            let mut rest = &replies[..];
            while !rest.is_empty() {
                let len = write_json_reply(rest, None, &mut self.expected).unwrap();
                rest = &rest[len..];
            }
        }
    }
}

/// The words of a line with no quotes but whole `"..."` words without escapes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut rest) = (Vec::new(), line.trim());
    while !rest.is_empty() {
        let (word, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').expect("a closing quote"),
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = behind.trim_start();
    }
    words
}

/// The transcripts in the fenced blocks ```` ```transcript ````.
pub fn in_markdown(name: &str, text: &str) -> Vec<Transcript> {
    let (mut found, mut block) = (Vec::new(), None);
    for (i, line) in text.lines().enumerate() {
        match (&mut block, line) {
            (None, "```transcript") => block = Some((i + 2, String::new())),
            (Some((first, lines)), "```") => {
                found.push(Transcript::parse(name, *first, lines));
                block = None;
            }
            (Some((_, lines)), line) => *lines += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    assert!(block.is_none(), "{name}: a block is not closed");
    found
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Whether `text` is what `pattern` says; see the transcripts' own rules for `...`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let pattern: Vec<&[u8]> = pattern.split_inclusive(|&byte| byte == b'\n').collect();
    let text: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    // For each line of the pattern, how many lines of the text can be matched by those before.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for line in pattern {
        let mut next = vec![false; text.len() + 1];
        let mut open = false;
        for i in 0..=text.len() {
            open |= reached[i];
            if line == b"...\r\n" {
                next[i] = open;
            } else if i < text.len() && reached[i] && line_matches(line, text[i]) {
                next[i + 1] = true;
            }
        }
        reached = next;
    }
    reached[text.len()]
}

fn line_matches(pattern: &[u8], line: &[u8]) -> bool {
    match pattern.windows(3).position(|window| window == b"...") {
        None => pattern == line,
        Some(at) => {
            line.starts_with(&pattern[..at])
                && (at..=line.len()).any(|from| line_matches(&pattern[at + 3..], &line[from..]))
        }
    }
}
