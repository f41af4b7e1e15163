//! What the store must hold, and what it may: a record for each backup of which anything
//! was ever reported or begun.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A content, compared byte for byte.
pub type Image = Arc<Vec<u8>>;

/// Whether a backup must be listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listed {
    /// Nothing was published: it must not be.
    No,
    /// Something was under way when all ended.
    Perhaps,
    /// It was reported.
    Yes,
}

/// A backup, as it may be.
#[derive(Clone)]
pub struct Record {
    pub volume: &'static str,
    /// Its name; two while it is being renamed.
    pub names: Vec<String>,
    /// Its content; several while it is being published.
    pub images: Vec<Image>,
    pub listed: Listed,
    pub incremental: bool,
    /// How long its image may become.
    pub size: usize,
    /// Somebody works on it.
    pub busy: bool,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths: Vec<usize> = self.images.iter().map(|image| image.len()).collect();
        write!(
            f,
            "{}/{:?} listed: {:?}, sizes {lengths:?}",
            self.volume, self.names, self.listed
        )
    }
}

/// What was done, and how often, over all rounds.
#[derive(Default, Debug, Clone)]
pub struct Counts {
    pub full: usize,
    pub incremental: usize,
    pub republished: usize,
    pub renamed: usize,
    pub deleted: usize,
    pub refused: usize,
    /// Kills while a publication, a renaming or a deletion was under way.
    pub publishing_killed: usize,
    pub renaming_killed: usize,
    pub deleting_killed: usize,
    /// What was found left over, by its kind.
    pub garbage: BTreeMap<String, usize>,
}

/// See the module's page.
#[derive(Default)]
pub struct Ledger {
    records: BTreeMap<u64, Record>,
    next: u64,
    /// The incremental backups that were begun last, by volume: one that is given up holds
    /// its parent for a moment still.
    incremental: BTreeMap<&'static str, u64>,
    pub counts: Counts,
    /// What was done, for who has to find out why it went wrong.
    story: Vec<String>,
}

impl Ledger {
    pub fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    pub fn last_words(&self) -> String {
        let mut lines = self.story.iter().rev().take(60).rev();
        lines
            .by_ref()
            .fold(String::new(), |text, line| text + line + "\n")
    }

    /// A backup is begun, of an image that will have `size` bytes at most. Gives its number
    /// and a name that no other ever had.
    pub fn begin(&mut self, volume: &'static str, size: usize, incremental: bool) -> (u64, String) {
        let number = self.next;
        self.next += 1;
        let name = format!("{number}.img");
        let record = Record {
            volume,
            names: vec![name.clone()],
            images: Vec::new(),
            listed: Listed::No,
            incremental,
            size,
            busy: true,
        };
        self.records.insert(number, record);
        if incremental {
            self.incremental.insert(volume, number);
        }
        (number, name)
    }

    /// A name for a backup that has one already.
    pub fn new_name(&mut self) -> String {
        self.next += 1;
        format!("renamed-{}.img", self.next)
    }

    pub fn get(&mut self, number: u64) -> &mut Record {
        self.records.get_mut(&number).unwrap()
    }

    pub fn forget(&mut self, number: u64) {
        self.records.remove(&number);
    }

    /// From now on it may have that content.
    pub fn publish(&mut self, number: u64, image: &Image) {
        let record = self.get(number);
        record.images.push(Arc::clone(image));
        if record.listed == Listed::No {
            record.listed = Listed::Perhaps;
        }
    }

    /// From now on it has that content.
    pub fn published(&mut self, number: u64, image: &Image) {
        let record = self.get(number);
        let before = record.listed == Listed::Yes;
        let anew = before && record.images.first() != Some(image);
        record.images = vec![Arc::clone(image)];
        record.listed = Listed::Yes;
        let counter = match (before, record.incremental) {
            (true, _) => &mut self.counts.republished,
            (false, true) => &mut self.counts.incremental,
            (false, false) => &mut self.counts.full,
        };
        *counter += usize::from(anew || !before);
    }

    pub fn of_volume(&self, volume: &str) -> impl DoubleEndedIterator<Item = (u64, &Record)> {
        let here = self
            .records
            .iter()
            .filter(move |(_, record)| record.volume == volume);
        here.map(|(number, record)| (*number, record))
    }

    /// Those that were reported and that nobody works on, oldest first.
    pub fn idle(&self, volume: &str) -> Vec<u64> {
        let idle = |record: &Record| !record.busy && record.listed == Listed::Yes;
        let idle = self.of_volume(volume).filter(|(_, record)| idle(record));
        idle.map(|(number, _)| number).collect()
    }

    /// Whether anything may be built on a backup. Numbers tell nothing: one that was begun
    /// earlier may have chosen its parent later.
    pub fn may_be_parent(&self, volume: &str, number: u64) -> bool {
        let mut others = self.of_volume(volume);
        let given_up = self.incremental.get(volume);
        given_up.is_some_and(|last| *last != number)
            || others.any(|(other, record)| record.incremental && other != number)
    }

    /// The length of the longest image that there may be in a volume.
    pub fn longest(&self, volume: &str) -> usize {
        self.of_volume(volume)
            .map(|(_, record)| record.size)
            .max()
            .unwrap_or(0)
    }

    /// The newest content in a volume.
    pub fn newest(&self, volume: &str) -> Option<Image> {
        let mut images = self
            .of_volume(volume)
            .filter_map(|(_, record)| record.images.last());
        images.next_back().cloned()
    }

    /// All ended. Compares a volume with what is listed of it now, and knows from then on
    /// what became of what had been under way.
    pub fn settle(&mut self, volume: &str, listed: Vec<(String, Vec<u8>)>) {
        let mut found = Vec::new();
        for (name, bytes) in listed {
            let mut here = self
                .records
                .iter_mut()
                .filter(|(_, record)| record.volume == volume && record.names.contains(&name));
            let (number, record) = here
                .next()
                .unwrap_or_else(|| panic!("{volume}/{name} is listed, and should not be"));
            assert!(
                record.listed != Listed::No,
                "{record:?} was never published and is listed"
            );
            assert!(!found.contains(number), "{record:?} is listed twice");
            let image = record.images.iter().find(|image| ***image == bytes);
            let image = image.unwrap_or_else(|| {
                panic!(
                    "{volume}/{name}, {} bytes: not as written: {record:?}",
                    bytes.len()
                )
            });
            record.images = vec![Arc::clone(image)];
            record.size = bytes.len();
            record.names = vec![name];
            record.listed = Listed::Yes;
            record.busy = false;
            found.push(*number);
        }
        for (number, record) in self.of_volume(volume) {
            assert!(
                found.contains(&number) || record.listed != Listed::Yes,
                "{record:?} was reported and is not listed"
            );
        }
        self.records
            .retain(|number, record| record.volume != volume || found.contains(number));
    }
}
