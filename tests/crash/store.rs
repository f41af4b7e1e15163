//! What lies in the store after a kill, as `cinderfs verify` and `cinderfs gc` tell it, and
//! as Cinder would find it.

use crate::VOLUMES;
use crate::common::library::Dice;
use crate::common::mount::{command, output, run, shell};
use crate::common::store_check::read_store;
use crate::round::Story;
use crate::worker::lock;
use serde_json::Value;
use std::fs;

/// What lies in the store and belongs to no backup.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LeftOvers {
    May,
    MustNot,
}

impl Story<'_> {
    /// Nothing is wrong but that something may be left over, which goes away: now, or in
    /// one of the next rounds.
    pub fn check_store(&self, dice: &mut Dice) {
        let spool = self.lab.path("spool");
        assert_eq!(
            fs::read_dir(spool).unwrap().count(),
            0,
            "the spool is not empty"
        );
        self.lab.settle();
        self.verify(LeftOvers::May);
        if dice.below(2) == 0 {
            self.collect();
        }
    }

    fn ask(&self, arguments: &[&str]) -> (bool, Value) {
        let config = self.lab.config();
        let mut all = vec![arguments[0], "--json", "--config", config.to_str().unwrap()];
        all.extend(&arguments[1..]);
        let output = output(&mut self.lab.cinderfs(&all));
        let said = String::from_utf8_lossy(&output.stderr);
        let told = serde_json::from_slice(&output.stdout);
        let told = told.unwrap_or_else(|e| panic!("{arguments:?}: {}: {e}: {said}", output.status));
        (output.status.success(), told)
    }

    fn verify(&self, left_overs: LeftOvers) {
        let (clean, told) = self.ask(&["verify"]);
        assert_eq!(told["failures"], serde_json::json!([]));
        let backups = told["backups"].as_array().unwrap();
        let problems = backups.iter().flat_map(|backup| {
            let problems = backup["problems"].as_array().unwrap();
            problems.iter().map(|problem| problem.as_str().unwrap())
        });
        let worse = |problem: &&str| {
            left_overs == LeftOvers::MustNot || !problem.contains("`cinderfs gc` removes")
        };
        let worse: Vec<&str> = problems.filter(worse).collect();
        assert!(worse.is_empty(), "verify: {worse:#?}");
        assert!(clean || left_overs == LeftOvers::May, "{told:#}");
    }

    /// Removes what is left over, and all of it.
    pub fn collect(&self) {
        const ALL: [&str; 3] = ["gc", "--older-than", "0"];
        lock(&self.ledger).tell("-- gc".into());
        let (clean, told) = self.ask(&[ALL[0], ALL[1], ALL[2], "--delete"]);
        assert!(clean, "{told:#}");
        for garbage in told["garbage"].as_array().unwrap() {
            assert_eq!(garbage["state"], "removed", "{garbage:#}");
            let kind = garbage["kind"].as_str().unwrap();
            let objects = garbage["objects"].as_array().unwrap();
            let named = |end: &str| {
                objects
                    .iter()
                    .any(|name| name.as_str().unwrap().ends_with(end))
            };
            let kind = match kind {
                "stray" if named("_sha256file") => "list of hashes",
                "unfinished" if named("_sha256file") => "unfinished, with a list of hashes",
                other => other,
            };
            *lock(&self.ledger)
                .counts
                .garbage
                .entry(kind.to_owned())
                .or_default() += 1;
        }
        self.verify(LeftOvers::MustNot);
        let (clean, told) = self.ask(&ALL);
        assert!(
            clean && told["garbage"] == serde_json::json!([]),
            "{told:#}"
        );
        let store = self.lab.store();
        let ours = run(&mut shell(r#"find "$1" -name '.*'"#, &[&store]));
        assert_eq!(ours, "");
        // A folder in which nothing is left is nothing to Cinder.
        run(&mut command(
            "find",
            &[
                store.to_str().unwrap(),
                "-mindepth",
                "1",
                "-type",
                "d",
                "-empty",
                "-delete",
            ],
        ));
        let stored = read_store(&store);
        let known = lock(&self.ledger);
        let known: usize = VOLUMES
            .iter()
            .map(|volume| known.of_volume(volume).count())
            .sum();
        assert!(stored.len() <= known, "{stored:#?}");
    }
}
