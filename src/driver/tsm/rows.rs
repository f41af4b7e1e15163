//! The tables that the client prints. No client has a form of them for programs: columns are
//! as wide as they like, separators differ, and long rows may wrap.
//!
//! Pure. What does not look like a row, or like something that may stand beside one, is a
//! failure: a backup that is not seen would look as if it were lost.

use super::verdict::plain_number;
use crate::format::Timestamp;

/// How large an object is, as far as it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// So many bytes.
    Exact(u64),
    /// Told in a larger unit: between these, both included.
    About(u64, u64),
}

impl Size {
    /// Whether it may be that many bytes.
    pub fn admits(self, bytes: u64) -> bool {
        match self {
            Self::Exact(size) => size == bytes,
            Self::About(least, most) => (least..=most).contains(&bytes),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(size) => write!(f, "{size} bytes"),
            Self::About(least, most) => write!(f, "{least} to {most} bytes"),
        }
    }
}

/// A version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub size: Size,
    /// When it was backed up, as the client tells it.
    pub date: String,
    /// The newest one, of a file that was there when the client last looked.
    pub is_active: bool,
    pub path: String,
    /// It was put together of several lines.
    pub is_joined: bool,
}

/// Whether there is a table, whatever is in it.
pub fn has_table(text: &str) -> bool {
    text.lines().any(is_ruler)
}

/// The rows of a table.
///
/// # Errors
/// The first line that nobody can make sense of, or that there is no table at all.
pub fn parse(text: &str) -> Result<Vec<Row>, String> {
    let mut lines = text.lines();
    if !lines.any(is_ruler) {
        return Err("there is no table".into());
    }
    let mut joined: Vec<(String, u32)> = Vec::new();
    let mut is_open = false;
    for line in lines {
        let is_row = begins_row(line);
        if is_row {
            joined.push((line.to_owned(), 1));
            is_open = true;
        } else if line.trim().is_empty() {
            is_open = false;
        } else if line.starts_with("ANS") || is_detail(line) || is_ruler(line) {
            continue;
        } else if is_open && let Some((row, count)) = joined.last_mut() {
            row.push_str(line);
            *count += 1;
        } else {
            return Err(format!("\"{}\" is nothing that is known", line.trim()));
        }
    }
    let rows = joined.iter().map(|(line, count)| {
        let row = row(line, *count > 1);
        row.ok_or_else(|| format!("\"{}\" is no row that is known", line.trim()))
    });
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    match rows.is_empty() {
        true => Err("there is a table without rows".into()),
        false => Ok(rows),
    }
}

/// The line below the heads of the columns.
fn is_ruler(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("---") && line.contains(' ') && line.chars().all(|c| c == '-' || c == ' ')
}

/// `Modified: ...  Accessed: ...`, indented.
fn is_detail(line: &str) -> bool {
    let Some((key, _)) = line.trim_start().split_once(':') else {
        return false;
    };
    line.starts_with([' ', '\t'])
        && key.starts_with(|c: char| c.is_ascii_uppercase())
        && key
            .chars()
            .all(|c| c.is_ascii_alphabetic() || matches!(c, ' ' | '-'))
}

/// A size, and a day somewhere behind it.
fn begins_row(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    first.starts_with(|c: char| c.is_ascii_digit())
        && line.split_whitespace().any(is_day)
        && size(line).is_some()
}

fn row(line: &str, is_joined: bool) -> Option<Row> {
    let mut at = 0;
    let mut words = Vec::new();
    for word in line.split_whitespace() {
        let start = at + line.get(at..)?.find(word)?;
        at = start + word.len();
        words.push((start, word));
    }
    let day = words.iter().position(|(_, word)| is_day(word))?;
    let (_, clock) = words.get(day + 1)?;
    let (_, date) = words.get(day)?;
    let is_clock = clock.split(':').count() >= 2 && clock.starts_with(|c: char| c.is_ascii_digit());
    let behind = words.get(day + 2..)?;
    let state = behind.windows(2).position(|pair| match pair {
        [(_, state), (_, path)] => matches!(*state, "A" | "I") && path.starts_with('/'),
        _ => false,
    })?;
    let (_, active) = behind.get(state)?;
    let (start, _) = behind.get(state + 1)?;
    is_clock.then_some(Row {
        size: size(line)?,
        date: format!("{date} {clock}"),
        is_active: *active == "A",
        // Some pad their rows.
        path: line.get(*start..)?.trim_end().to_owned(),
        is_joined,
    })
}

/// Three numbers, with the same sign between them.
fn is_day(word: &str) -> bool {
    let is_number = |part: &str| {
        (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_split_by = |sign: char| {
        let parts: Vec<&str> = word.split(sign).collect();
        parts.len() == 3 && parts.iter().all(|part| is_number(part))
    };
    // A large number may have dots as well, but no year.
    let has_year = || word.split(['-', '/', '.']).any(|part| part.len() == 4);
    ['-', '/'].into_iter().any(is_split_by) || is_split_by('.') && has_year()
}

/// The size that a row begins with.
fn size(line: &str) -> Option<Size> {
    let mut words = line.split_whitespace();
    let number = words.next()?;
    // A narrow space counts as white space, and stands between thousands.
    let (mut digits, mut unit) = (number.to_owned(), None);
    for word in words {
        let is_thousands = word.get(..3).is_some_and(|digits| {
            let mark = word.get(3..4).unwrap_or(".");
            digits.bytes().all(|byte| byte.is_ascii_digit()) && matches!(mark, "." | ",")
        });
        if is_thousands && number.len() <= 3 && !is_day(word) {
            digits.push_str(word);
            continue;
        }
        unit = Some(word);
        break;
    }
    let shift = match unit? {
        "KB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        "PB" => 50,
        "B" => return plain_number(&digits).map(Size::Exact),
        // The older layout has no unit.
        word if is_day(word) => return plain_number(&digits).map(Size::Exact),
        _ => return None,
    };
    about(&digits, shift)
}

/// `1,024.25` of a unit: what was rounded to two places.
fn about(digits: &str, shift: u32) -> Option<Size> {
    let mark = digits.rfind(['.', ',']);
    let places = mark.map_or(0, |mark| digits.len() - mark - 1);
    let (whole, places) = match mark {
        Some(mark) if places <= 2 => (digits.get(..mark)?, digits.get(mark + 1..)?),
        _ => (digits, ""),
    };
    let hundredths: u128 = match places.len() {
        0 => 0,
        1 => 10 * u128::from(plain_number(places)?),
        _ => u128::from(plain_number(places)?),
    };
    let value = u128::from(plain_number(whole)?) * 100 + hundredths;
    let unit = 1u128 << shift;
    let step = match places.len() {
        0 => 100,
        1 => 10,
        _ => 1,
    };
    // Whether it is rounded, or cut off, nobody says.
    let least = value.saturating_sub(step) * unit / 100;
    let most = (value + step) * unit / 100;
    Some(Size::About(
        u64::try_from(least).ok()?,
        u64::try_from(most).ok()?,
    ))
}

/// The time that a row tells. We ask for days as `2026-11-21`; a client that does not care
/// tells them as America does.
pub fn time(date: &str) -> Option<Timestamp> {
    if let Some(at) = Timestamp::parse(date) {
        return Some(at);
    }
    let (day, clock) = date.split_once(' ')?;
    let mut parts = day.split('/');
    let (month, of_month, year) = (parts.next()?, parts.next()?, parts.next()?);
    Timestamp::parse(&format!("{year}-{month:0>2}-{of_month:0>2} {clock}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Node Name: NODE\n\
        \x20          Size        Backup Date                Mgmt Class           A/I File\n\
        \x20          ----        -----------                ----------           --- ----\n";

    fn rows(body: &str) -> Result<Vec<Row>, String> {
        parse(&format!("{HEAD}{body}"))
    }

    fn one(body: &str) -> Row {
        let mut rows = rows(body).unwrap();
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.remove(0)
    }

    #[test]
    fn reads_the_samples() {
        let row = one(
            "         4,096  B  07/12/2020 14:09:12             STANDARD             A  /backup/x y\n",
        );
        assert_eq!(row.size, Size::Exact(4096));
        assert_eq!(row.path, "/backup/x y");
        assert!(row.is_active && !row.is_joined);
        assert_eq!(time(&row.date), Timestamp::parse("2020-07-12 14:09:12"));
        // An older layout: narrower, without a unit.
        let row = one("   4096 2020-07-12 14:09:12 DEFAULT I /a/b\n");
        assert_eq!((row.size, row.is_active), (Size::Exact(4096), false));
        assert_eq!(time(&row.date), Timestamp::parse("2020-07-12 14:09:12"));
        // An image: two sizes.
        let row =
            one("  1,048,576  B  512 B  RAW  2026-11-21 12:00:00  STANDARD  A  /dev/backup-1\n");
        assert_eq!(row.size, Size::Exact(1 << 20));
    }

    #[test]
    fn any_separator_will_do_and_large_units_are_not_exact() {
        let size = |text: &str| one(&format!("  {text}  2026-11-21 12:00:00 S A /x\n")).size;
        for text in [
            "1.048.576  B",
            "1,048,576 B",
            "1'048'576 B",
            "1\u{a0}048\u{a0}576 B",
            "1\u{202f}048\u{202f}576 B",
            "1048576",
        ] {
            assert_eq!(size(text), Size::Exact(1 << 20), "{text}");
        }
        for text in ["1,024.00 KB", "1.024,00 KB", "1.00 MB", "1,00 MB", "1 MB"] {
            let size = size(text);
            assert!(
                matches!(size, Size::About(..)) && size.admits(1 << 20),
                "{text}: {size:?}"
            );
        }
        for text in ["1 XB", "1 MiB", "1 b", "4096 512 B"] {
            let row = format!("  {text}  2026-11-21 12:00:00 S A /x\n");
            assert!(rows(&row).is_err(), "{text}");
        }
        assert!(!size("1.00 MB").admits(1 << 21));
        assert!(!size("1,500 KB").admits(1536));
    }

    #[test]
    fn long_rows_may_wrap_and_details_may_follow() {
        let row = "     1,024  B  2026-11-21 12:00:00             STANDARD             A  /srv/tsm/v/backup-7";
        for at in [40, 66, 69, 72, 80] {
            let (before, behind) = row.split_at(at);
            let found = one(&format!("{before}\n{behind}\n"));
            assert_eq!(found.path, "/srv/tsm/v/backup-7", "{at}");
            assert!(found.is_joined);
        }
        let details =
            format!("{row}\n         Modified: 2026-11-21 12:00:00  Accessed: x\n{row}\n");
        assert_eq!(rows(&details).unwrap().len(), 2);
    }

    #[test]
    fn what_pads_a_row_is_not_part_of_its_name() {
        let row = one("  1 B 2026-11-21 12:00:00 S A /srv/backup-7 \t  \n");
        assert_eq!(row.path, "/srv/backup-7");
    }

    #[test]
    fn what_is_not_known_is_no_empty_table() {
        assert!(parse("").is_err());
        assert!(parse("all is well\n").is_err());
        assert!(rows("").is_err());
        assert!(rows("%%% what is this\n").is_err());
        assert!(rows("  1 B 2026-11-21 12:00:00 S X /x\n").is_err());
        let row = one("  1 B 2026-11-21 12:00:00 S A /x\n%%% what is this\n");
        assert!(row.is_joined);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "([ -~]{0,40}\n|---- ---\n|  1 B 2026-11-21 1:1 S A /x\n|\\PC{0,20}){0,9}") {
            let _ = parse(&text);
        }
    }
}
