//! What the client's words and exit code come to.
//!
//! In this order: how it ended, messages that say of themselves that something went wrong,
//! the exit code, which only stands for the worst class of messages, and then counters and
//! a further question, which are for who asked. What is not known is a failure.

use super::command::{End, Ended};
use crate::error::{Error, Kind, Result};

/// Messages by which the client says that there is nothing of that name.
const NOTHING: [u32; 4] = [1092, 1302, 1345, 4000];
/// Messages that are no reason to doubt: the session was lost, and established again.
const HARMLESS: [u32; 2] = [1809, 1810];
/// The volume is none of LVM's, and is backed up all the same.
pub const NO_LVM: u32 = 1213;
/// The id or password is wrong. It counts as information, and a question follows.
const WRONG_PASSWORD: u32 = 1051;
/// An option that this client, or its server, does not know.
const UNKNOWN_OPTION: u32 = 1107;
/// A question cannot be put so: it needs a name, or a name of another kind.
const NOT_SO: [u32; 4] = [1063, 1079, 1081, UNKNOWN_OPTION];
/// Messages that are about the server, the node or its options, whatever was asked.
const OF_SESSION: [u32; 6] = [1017, 1025, WRONG_PASSWORD, 1330, 1035, 1217];

/// Something that the client said, with a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub number: u32,
    /// `I`, `W`, `E` or `S`.
    pub class: char,
    /// All of it, in one line.
    pub text: String,
}

/// What it has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As far as the client knows, it is done.
    Done,
    /// There is nothing of that name.
    Nothing,
}

/// The messages in what the client has said. They may go on in the next lines.
pub fn messages(text: &str) -> Vec<Message> {
    let mut found: Vec<Message> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        let line = line.trim();
        if let Some((number, class)) = head(line) {
            found.push(Message {
                number,
                class,
                text: line.to_owned(),
            });
            is_open = true;
        } else if line.is_empty() {
            is_open = false;
        } else if is_open
            && let Some(last) = found.last_mut()
            && last.text.len() < 300
        {
            last.text.push(' ');
            last.text.push_str(line);
        }
    }
    found
}

/// `ANS1092W`: number and class.
fn head(line: &str) -> Option<(u32, char)> {
    let rest = line.strip_prefix("ANS")?;
    let (digits, rest) = rest.split_at_checked(4)?;
    let class = rest.chars().next()?;
    let number = digits.parse().ok()?;
    matches!(class, 'I' | 'W' | 'E' | 'S' | 'K').then_some((number, class))
}

/// `Total number of objects <what>: 1,234`
pub fn counter(text: &str, what: &str) -> Option<u64> {
    let key = format!("Total number of objects {what}:");
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(&key))?;
    plain_number(line.trim())
}

/// A whole number, whatever stands between its thousands.
pub fn plain_number(text: &str) -> Option<u64> {
    let is_separator = |c: char| matches!(c, ',' | '.' | '\'' | '\u{a0}' | '\u{202f}');
    let digits: String = text.chars().filter(|c| !is_separator(*c)).collect();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// The node as which the server knows who asks, where it says so.
pub fn node(text: &str) -> Option<String> {
    let told = |head: &str| {
        let mut lines = text.lines();
        let name = lines
            .find_map(|line| line.trim().strip_prefix(head))?
            .trim();
        (!name.is_empty()).then(|| name.to_owned())
    };
    // One node may act for another, whose backups it then has.
    told("Accessing as node:").or_else(|| told("Node Name:"))
}

/// Whether the client, or the server, does not know an option that it was given.
pub fn refuses_option(ended: &Ended) -> bool {
    let messages = messages(&ended.text);
    messages
        .iter()
        .any(|message| message.number == UNKNOWN_OPTION)
}

/// Whether the client does not take a question as it was put, and says nothing else.
pub fn refuses_question(ended: &Ended) -> bool {
    let messages = messages(&ended.text);
    let mut bad = messages
        .iter()
        .filter(|message| message.class != 'I' || message.number == WRONG_PASSWORD)
        .peekable();
    ended.end == End::Exit(12)
        && bad.peek().is_some()
        && bad.all(|message| message.class == 'E' && NOT_SO.contains(&message.number))
}

/// Whether whatever is asked next would fail in the same way.
pub fn is_of_session(error: &Error) -> bool {
    matches!(error.kind(), Kind::Denied | Kind::TimedOut)
        || head(error.reason()).is_some_and(|(number, _)| OF_SESSION.contains(&number))
}

/// Judges what one object, or one question, has come to. `allowed` are warnings that mean
/// nothing here.
///
/// # Errors
/// Whatever keeps it from being done.
pub fn judge(op: &'static str, subject: &str, ended: &Ended, allowed: &[u32]) -> Result<Verdict> {
    let messages = messages(&ended.text);
    let worst = messages.iter().find(|message| {
        let is_bad = matches!(message.class, 'E' | 'S') && !HARMLESS.contains(&message.number);
        message.number == WRONG_PASSWORD || is_bad && !NOTHING.contains(&message.number)
    });
    let fail = |kind: Kind, reason: String| Err(Error::new(kind, op, subject, reason));
    match (&ended.end, worst) {
        (End::Exit(_), Some(bad)) | (End::Asked(_), Some(bad)) => {
            return Err(told(op, subject, bad));
        }
        (End::Exit(_), None) => {}
        (End::Signal(number), _) => {
            return fail(
                Kind::Unavailable,
                format!("dsmc was ended by signal {number}"),
            );
        }
        (End::TimedOut(patience), _) => {
            let said = worst.map(|message| format!("; it said: {}", message.text));
            let reason = format!(
                "dsmc showed no sign of life for {} s, and was ended{}",
                patience.as_secs_f64(),
                said.unwrap_or_default()
            );
            return Err(Error::new(Kind::TimedOut, op, subject, reason).advise(
                "see whether the server answers, and what its tapes do, or raise \
                 backup_tsm_mount_timeout or backup_tsm_session_timeout",
            ));
        }
        (End::Asked(question), None) => {
            let reason = format!("dsmc asked \"{question}\", and was ended: nobody can answer it");
            return fail(Kind::Unavailable, reason);
        }
        (End::BrokenOff, _) => {
            return fail(Kind::Unavailable, "it was interrupted".into());
        }
        (End::CutOff(why), _) => {
            return fail(
                Kind::Unavailable,
                format!("not all that dsmc has said was heard: {why}"),
            );
        }
        (End::Flooded, _) => {
            return fail(
                Kind::Unavailable,
                "dsmc talked without end, and was ended".into(),
            );
        }
    }
    let End::Exit(code) = ended.end else {
        return fail(Kind::Unavailable, "dsmc has not ended".into());
    };
    let is_nothing = |message: &Message| NOTHING.contains(&message.number);
    let warnings: Vec<&Message> = messages
        .iter()
        .filter(|message| message.class != 'I' && !is_nothing(message))
        .collect();
    // "There is none" counts only if nothing else is said.
    if messages.iter().any(is_nothing)
        && matches!(code, 0 | 8 | 12)
        && warnings
            .iter()
            .all(|message| HARMLESS.contains(&message.number))
    {
        return Ok(Verdict::Nothing);
    }
    let is_fine = |message: &&Message| {
        allowed.contains(&message.number) || HARMLESS.contains(&message.number)
    };
    let is_silent = !messages.iter().any(is_nothing);
    // A warning that nobody knows may say that something is lacking, whatever the code.
    let is_fine_code = code == 0 || code == 8 && !warnings.is_empty();
    if is_silent && is_fine_code && warnings.iter().all(is_fine) {
        return Ok(Verdict::Done);
    }
    let odd = warnings.iter().find(|message| !is_fine(message));
    let said = odd.map_or_else(|| last_words(&ended.text), |message| message.text.clone());
    let reason = format!("dsmc ended with code {code}: {said}");
    Err(Error::new(Kind::Unavailable, op, subject, reason).advise("see the client's dsmerror.log"))
}

/// What a message means for who waits.
fn told(op: &'static str, subject: &str, message: &Message) -> Error {
    let (kind, advice) = match message.number {
        1017 => (Kind::Unavailable, "see whether the server can be reached"),
        1025 | WRONG_PASSWORD => (
            Kind::Denied,
            "set the password: run `dsmc query session` as the same user once, or set \
             backup_tsm_password",
        ),
        1330 => (
            Kind::Unavailable,
            "a restore of this node was interrupted: see `dsmc query restore`, and end it with \
             `dsmc cancel restore` or `dsmc restart restore`",
        ),
        UNKNOWN_OPTION => (
            Kind::Unavailable,
            "this client is too old, or an option file has a mistake",
        ),
        1035 | 1217 => (
            Kind::Unavailable,
            "see backup_tsm_server_name, backup_tsm_option_file and the client's dsm.sys",
        ),
        1126 => (
            Kind::Denied,
            "the node needs the server's leave to delete backups (`update node NAME \
             backdelete=yes`)",
        ),
        _ => (Kind::Unavailable, "see the client's dsmerror.log"),
    };
    Error::new(kind, op, subject, &message.text).advise(advice)
}

/// The last lines of an output, for who has to make sense of it.
pub fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    let from = lines.len().saturating_sub(3);
    let words = lines.get(from..).unwrap_or_default().join(" / ");
    match words.is_empty() {
        true => "it said nothing".into(),
        false => words.chars().take(300).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, text: &str) -> Ended {
        Ended {
            end: End::Exit(code),
            text: text.into(),
        }
    }

    fn verdict(code: i32, text: &str) -> Result<Verdict> {
        judge("ask", "x", &ended(code, text), &[NO_LVM])
    }

    #[test]
    fn the_words_count_before_the_code() {
        assert_eq!(verdict(0, "all is well").unwrap(), Verdict::Done);
        let none = "ANS1092W No files matching search criteria were found";
        assert_eq!(verdict(8, none).unwrap(), Verdict::Nothing);
        assert_eq!(verdict(0, none).unwrap(), Verdict::Nothing);
        assert_eq!(verdict(8, "ANS1213W not LVM").unwrap(), Verdict::Done);
        let again = format!("ANS1809W lost\nANS1810E again\n{none}");
        assert_eq!(verdict(12, &again).unwrap(), Verdict::Nothing);
        for (code, also) in [(8, "ANS1999W odd"), (0, "ANS1213W odd"), (4, ""), (99, "")] {
            let error = verdict(code, &format!("{none}\n\n{also}")).unwrap_err();
            assert!(error.to_string().contains(also), "{code} {also}: {error}");
        }
        for (code, text, kind, said) in [
            (0, "ANS1017E Session rejected", Kind::Unavailable, "reached"),
            (8, "ANS1025E no", Kind::Denied, "backup_tsm_password"),
            (8, "ANS1999W odd", Kind::Unavailable, "code 8: ANS1999W odd"),
            (0, "ANS1999W odd", Kind::Unavailable, "code 0: ANS1999W odd"),
            (8, "ANS1213W a\nANS1999W odd", Kind::Unavailable, "ANS1999W"),
            (8, "nothing of note", Kind::Unavailable, "nothing of note"),
            (4, "", Kind::Unavailable, "code 4: it said nothing"),
            (12, "", Kind::Unavailable, "code 12"),
            // Of two things that are wrong, "there is none" is not the one to believe.
            (
                12,
                "ANS1092W none\nANS1330S pending",
                Kind::Unavailable,
                "cancel restore",
            ),
        ] {
            let error = verdict(code, text).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn only_what_says_so_means_that_images_have_names() {
        let refused = |text: &str| refuses_question(&ended(12, text));
        assert!(refused("ANS1079E No file specification entered"));
        assert!(refused("ANS1107E Invalid option/value"));
        for text in [
            "ANS1999E odd",
            "ANS1079E none\nANS1999E odd",
            "ANS1079E none\nANS1999W odd",
            "ANS1051I wrong\nANS1079E none",
            "ANS1017E down",
            "ANS1092W none",
            "",
        ] {
            assert!(!refused(text), "{text}");
        }
        assert!(!refuses_question(&ended(8, "ANS1079E none")));
        let error = |text: &str| verdict(12, text).unwrap_err();
        assert!(is_of_session(&error("ANS1017E down")));
        assert!(is_of_session(&error("ANS1025E no")));
        assert!(!is_of_session(&error("ANS1999E odd")));
    }

    #[test]
    fn nodes_are_told_of() {
        let text = "Node Name: ONE\nSession established with server SP: Linux/x86_64\n";
        assert_eq!(node(text).unwrap(), "ONE");
        let other = format!("{text}  Server Version 8\nAccessing as node: OTHER\n");
        assert_eq!(node(&other).unwrap(), "OTHER");
        assert_eq!(node("Node Name:\n"), None);
        assert_eq!(node("ANS1017E Session rejected"), None);
    }

    #[test]
    fn messages_go_on_in_the_next_lines() {
        let text = "Retry # 1  Normal File-->            21,841 /var/log/messages [Sent]\n\
            ANS1228E Sending of object '/a' failed.\n\
            ANS4037E Object '/a' changed during processing.\n  Object skipped.\n\nTotal";
        let found = messages(text);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[1].text,
            "ANS4037E Object '/a' changed during processing. Object skipped."
        );
        assert!(messages("ANS12E x\nANSWERS\nANS1092").is_empty());
    }

    #[test]
    fn counters_have_any_separator() {
        for (line, count) in [
            ("Total number of objects restored:       1", Some(1)),
            (
                "Total number of objects restored:   27,843,085",
                Some(27_843_085),
            ),
            ("Total number of objects restored: 27.843", Some(27_843)),
            ("Total number of objects restored: 1\u{202f}000", Some(1000)),
            ("Total number of objects restored: many", None),
            ("Total number of objects backed up: 1", None),
        ] {
            assert_eq!(counter(line, "restored"), count, "{line}");
        }
    }
}
