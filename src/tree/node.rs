//! Inode numbers: the same for the same thing, in every mount.

use super::attr::ROOT;
use super::{lock, not_found};
use crate::error::Result;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::sync::Mutex;

/// What a file becomes that is written into a drop folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropKind {
    /// A full backup.
    Full,
    /// An incremental one.
    Incremental,
}

impl DropKind {
    /// The kind of the folder of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            ".full" => Some(Self::Full),
            ".incremental" => Some(Self::Incremental),
            _ => None,
        }
    }
}

/// A thing in the tree, by what it is and not by what it is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// The root.
    Root,
    /// The folder of a backend, by its number.
    Backend(usize),
    /// The folder of a volume, by its id.
    Volume(usize, String),
    /// A folder in that, into which a backup of that kind can be written.
    Drop(usize, String, DropKind),
    /// A backup, by volume and id.
    Backup(usize, String, String),
    /// `/.cinderfs`
    Control,
    /// `/.cinderfs/status.json`
    Status,
    /// `/.cinderfs/metrics`
    Metrics,
    /// `/.cinderfs/by-id`
    ById,
    /// `/.cinderfs/by-id/<backup id>`
    ByIdLink(String),
    /// `/.cinderfs/<backend>`
    ControlBackend(usize),
    /// `/.cinderfs/<backend>/<volume>`
    ControlVolume(usize, String),
    /// `/.cinderfs/<backend>/<volume>/<file>.json`
    Sidecar(usize, String, String),
    /// `/.cinderfs/<backend>/<volume>/<file>.record`
    Record(usize, String, String),
}

/// The inodes that the kernel knows.
pub struct Nodes(Mutex<Table>);

#[derive(Default)]
struct Table {
    nodes: HashMap<u64, (Node, u64)>,
    numbers: HashMap<Node, u64>,
    /// How often what has a number was removed and is another thing since.
    generations: HashMap<u64, u64>,
}

impl Nodes {
    /// Only the root is known.
    pub fn new() -> Self {
        let mut table = Table::default();
        table.nodes.insert(ROOT, (Node::Root, 1));
        table.numbers.insert(Node::Root, ROOT);
        Self(Mutex::new(table))
    }

    /// The number of a node. It stays the same whether the kernel knows it or not.
    pub fn number(&self, node: &Node) -> u64 {
        let table = lock(&self.0);
        match table.numbers.get(node) {
            Some(number) => *number,
            None => free_number(&table, node),
        }
    }

    /// The same, and the kernel knows it from now on, once more.
    pub fn remember(&self, node: Node) -> u64 {
        let mut table = lock(&self.0);
        let number = match table.numbers.get(&node) {
            Some(number) => *number,
            None => free_number(&table, &node),
        };
        table.numbers.insert(node.clone(), number);
        table.nodes.entry(number).or_insert((node, 0)).1 += 1;
        number
    }

    /// The kernel forgets a node, as often as it was told of it.
    pub fn forget(&self, number: u64, times: u64) {
        let mut table = lock(&self.0);
        let Some((_, known)) = table.nodes.get_mut(&number) else {
            return;
        };
        *known = known.saturating_sub(times);
        if *known == 0
            && number != ROOT
            && let Some((node, _)) = table.nodes.remove(&number)
        {
            table.numbers.remove(&node);
        }
    }

    /// What has this number is removed. Should it come back, it is another thing: the
    /// kernel lets nobody make a file in a folder that was removed, while anybody is in it.
    pub fn retire(&self, node: &Node) {
        let number = self.number(node);
        *lock(&self.0).generations.entry(number).or_default() += 1;
    }

    /// How often what has this number was removed.
    pub fn generation(&self, number: u64) -> u64 {
        let table = lock(&self.0);
        table.generations.get(&number).copied().unwrap_or_default()
    }

    /// The node of a number that the kernel knows.
    pub fn get(&self, number: u64) -> Result<Node> {
        let table = lock(&self.0);
        let known = table.nodes.get(&number).map(|(node, _)| node.clone());
        known.ok_or_else(|| not_found("inode", &number.to_string()))
    }
}

/// A hash of what the node is; the next free number where two hashes are the same.
fn free_number(table: &Table, node: &Node) -> u64 {
    let hash = Sha256::digest(format!("{node:?}"));
    let mut number = 0u64;
    for byte in hash.iter().take(8) {
        number = number << 8 | u64::from(*byte);
    }
    // Programs that take inode numbers for signed would be surprised by the top bit.
    number &= u64::MAX >> 1;
    while number <= ROOT || table.nodes.contains_key(&number) {
        number = number.wrapping_add(1) & (u64::MAX >> 1);
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_forgotten_when_all_is() {
        let node = || Node::Backup(0, "v".into(), "b".into());
        let (one, other) = (Nodes::new(), Nodes::new());
        let number = one.remember(node());
        assert_eq!(number, other.number(&node()));
        assert_eq!(number, one.remember(node()));
        one.forget(number, 1);
        assert_eq!(one.get(number).unwrap(), node());
        one.forget(number, 1);
        assert!(one.get(number).is_err());
        one.forget(ROOT, 99);
        assert_eq!(one.get(ROOT).unwrap(), Node::Root);
    }
}
